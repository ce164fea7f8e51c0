"""``dfm compare``: the same latents through two models."""

import time
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.command_line import overrides, plain, run_directory
from dfm.cli.launch import launch
from dfm.cli.settings import CompareSettings
from dfm.runs.build import settings
from dfm.runs.images import side_by_side

if TYPE_CHECKING:
    from torch import Tensor


def main() -> None:
    """The command."""
    launch("compare", job)


def job(cfg: DictConfig) -> None:
    """Decode the same latents by two models and say how far apart they end."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, CompareSettings)
    from dfm.basics.devices import resolve_device
    from dfm.basics.files import write_json
    from dfm.basics.seeding import NumberedDraws
    from dfm.cli.from_checkpoint import load_denoiser
    from dfm.cli.unused_settings import check_settings
    from dfm.runs import images as images_io
    from dfm.runs import parts as assemble
    from dfm.runs.directory import write_overrides
    from dfm.runs.sample_files import prior_of, save_npz
    from dfm.sampling.draw import check_count, check_labels, stored
    from dfm.sampling.ode_flow import decode_batch, in_batches

    if wanted.other is None:
        raise UserError("other= is not given; allowed: a second checkpoint or run directory")
    trust = assemble.trusted(config)
    flow = assemble.flow(config, trust)
    check_settings(flow, "flow")
    check_count(wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    given = {"ckpt": wanted.ckpt, "other": wanted.other}
    pair = [load_denoiser(config, ckpt, device, trust, key=key) for key, ckpt in given.items()]
    specs = [found.spec for found, _ in pair]
    if specs[0].shape != specs[1].shape or specs[0].levels != specs[1].levels:
        raise UserError(
            f"ckpt= makes {specs[0].name} {specs[0].shape}, other= {specs[1].name} {specs[1].shape}; "
            "allowed: two models of data of one shape"
        )
    priors = [prior_of(found.config) for found, _ in pair]
    if priors[0] != priors[1]:
        raise UserError(
            f"ckpt= has the prior {priors[0]}, other= {priors[1]}; allowed: two models with one prior, since a latent "
            "of the one means nothing to the other"
        )
    write_overrides(directory, overrides())
    latents = pair[0][1].prior.draw(NumberedDraws(wanted.seed, range(wanted.n)), specs[0].shape).float()
    ends, evaluations, began = [], [], time.perf_counter()
    for found, denoiser in pair:
        labels = check_labels(found.spec, None, range(wanted.n))
        end = in_batches(decode_batch, denoiser.with_labels(labels), latents, flow, wanted.batch_size)
        ends.append(end.x)
        evaluations.append(end.nfe)
    seconds = time.perf_counter() - began
    made = [stored(end, specs[0]) for end in ends]
    arrays = [images_io.nhwc(m) if specs[0].levels is not None else m.numpy() for m in made]
    save_npz(directory / "samples.npz", {"samples": arrays[0], "other": arrays[1]})
    images_io.save_png(side_by_side(made, specs[0]), directory / "grid.png")
    facts = {
        "n": wanted.n, "seed": wanted.seed, "nfe": evaluations, "seconds": seconds, "flow": config["flow"],
        "checkpoints": [str(found.path) for found, _ in pair], **apart(*ends),
    }  # fmt: skip
    write_json(directory / "compare.json", facts)
    cosine = "" if facts["cosine_mean"] is None else f", cosine similarity {facts['cosine_mean']:.4f}"
    console.result(
        f"{wanted.n} latents through two models: root mean square distance {facts['rms_mean']:.4f} (largest "
        f"{facts['rms_max']:.4f}){cosine}: {directory / 'grid.png'}"
    )
    console.result(f"run directory: {directory}")


def apart(first: "Tensor", second: "Tensor") -> dict[str, Any]:
    """Per sample: root mean square distance of a coordinate, and the cosine of the angle about the common mean.

    With one sample the mean is the middle of the pair, and the angle says nothing: None.
    """
    from torch.nn.functional import cosine_similarity

    x, y = first.double().flatten(1), second.double().flatten(1)
    distance, middle = (x - y).square().mean(1).sqrt(), (x.mean(0) + y.mean(0)) / 2
    cosine = float(cosine_similarity(x - middle, y - middle).mean()) if len(x) > 1 else None
    return {"rms_mean": float(distance.mean()), "rms_max": float(distance.max()), "cosine_mean": cosine}
