"""The settings that suit a data set: those that ``dfm train`` takes for it, and whether mirrored images are as good."""

from typing import Any

import torch

from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import other_command
from dfm.cli.composition.recipes import form_of, form_of_shape, told
from dfm.cli.job import Job
from dfm.cli.words.own_code import key_of
from dfm.cli.words.printed_command import printed
from dfm.data.dataset import Dataset
from dfm.evaluation.mirror_images import MirrorTest, mirror_test
from dfm.runs.parts import Parts


def suited(job: Job, data: Dataset) -> dict[str, Any]:
    """Return the settings with which ``dfm train`` would train on the job's data, and the command, in plain containers.

    The settings are those that the training itself composes, so recipes have one home. ``refused`` is what the network
    says against the data, or null.
    """
    words = [word for word in job.overrides if key_of(word).split(".")[0] in ("dataset", "trust")]
    mirrored = mirroring(job, data)
    typed = [word for word in words if key_of(word).split(".")[0] == "dataset"]
    if mirrored is not None and mirrored.suits and not data.flip:
        typed = [*(word for word in typed if key_of(word) != "dataset.flip"), "dataset.flip=true"]
    recipe = unknown_before(job, data)
    typed += recipe
    config, choices = other_command("train", [*words, *recipe])
    model, trainer = config["model"], config["trainer"]
    parameters, refused = network(config, job)
    return {
        "told": told(config, choices, words, job.trusted),
        "settings": {
            "experiment": choices.get("experiment"),
            "recipe": choices.get("recipe"),
            "model": choices.get("model"),
            **{f"model.{key}": model[key] for key in ("patch", "channels", "channel_multipliers") if key in model},
            **{f"trainer.{key}": trainer[key] for key in ("batch_size", "lr", "max_steps", "max_minutes")},
            "parameters": parameters,
        },
        "refused": refused,
        "mirrored": None if mirrored is None else vars(mirrored),
        "command": printed("train", *typed),
        "command_with_classes": printed("train", *typed, "conditional=true") if data.num_classes else None,
    }


def unknown_before(job: Job, data: Dataset) -> list[str]:
    """Return ``recipe=NAME`` for data whose shape is known only after they are read, else nothing."""
    shape, before = data.split("train").shape, form_of(job.config["dataset"], job.trusted)
    suited_to = form_of_shape(data.name, shape)
    return [] if before is None or before == suited_to else [f"recipe={suited_to.recipe}"]


def network(config: dict[str, Any], job: Job) -> tuple[int | None, str | None]:
    """Return the number of weights of the network that would be trained, and what it says against the data."""
    parts = Parts(config, job.trusted)
    try:
        spec = job.parts.spec(conditional=False)
        return sum(weight.numel() for weight in parts.denoiser(spec, torch.device("meta")).module().parameters()), None
    except UserError as error:
        return None, str(error)


def mirroring(job: Job, data: Dataset) -> MirrorTest | None:
    """Return whether mirrored images are as good examples; None where training cannot mirror."""
    split = data.split("train")
    if "flip" not in job.config["dataset"] or len(split.shape) != 3 or split.shape[-1] < 2:
        return None
    return mirror_test(split)
