"""What the command line names wins over an experiment, and data for which it is not made get a recipe."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.cli import TINY, Command

from dfm.cli.composition import command_line
from dfm.cli.composition.config_dirs import config_dir, options
from dfm.cli.composition.recipes import Form, form_of
from dfm.runs.build import target_of
from dfm.runs.parts import Parts

compose = lru_cache(command_line.compose)  # most tests only read a few configurations
SHORT = "defaults: [default, _self_]\nmax_steps: 3\nlr: 5e-5\n"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A directory of the user's with a trainer, a model, and experiments with and without data of their own."""
    for name, text in {
        "trainer/short": SHORT,
        "model/thin": "defaults: [unet_digits, _self_]\nchannels: 8\ngroups: 4\n",
        "experiment/method": "# @package _global_\ndefaults:\n  - override /schedule: cosine\nnll:\n  n: 5\n",
        "experiment/brief": "# @package _global_\ndefaults:\n  - override /trainer: short\n",
        "experiment/wide": "# @package _global_\ndefaults:\n  - digits_vp\nmodel:\n  channels: 64\n",
    }.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / f"{name}.yaml").write_text(text)
    return tmp_path / "mine"


def shown(command: Command, *words: str) -> dict[str, Any]:
    """What ``--cfg job`` prints."""
    found: dict[str, Any] = yaml.safe_load(command("train", *words, "--cfg", "job").out)
    return found


def file_of(name: str) -> dict[str, Any]:
    """The keys of one YAML file of dfm, without a composition."""
    content: dict[str, Any] = yaml.safe_load((config_dir() / f"{name}.yaml").read_text())
    return content


def test_an_objective_brings_its_own_options_to_another_experiment() -> None:
    """Only where it is another one, and not where the line or the experiment's own objective says what counts."""
    fashion = compose("train", "experiment=fashion_flow")
    assert "LogitNormal" in fashion["density"]["_target_"]
    same = compose("train", "experiment=fashion_flow", "objective=flow_matching")
    assert same["density"] == fashion["density"]
    other = compose("train", "experiment=fashion_flow", "objective=consistency")
    alone = compose("train", "objective=consistency")
    for part in ("density", "sampler"):
        assert other[part] == alone[part]
    assert other["model"] == fashion["model"]
    typed = compose("train", "experiment=fashion_flow", "objective=consistency", "density=log_nsr")
    assert "LogNsr" in typed["density"]["_target_"]


@pytest.mark.parametrize("experiment", [(), ("experiment=digits_flow",), ("experiment=digits_vdm",)])
def test_a_group_of_ones_own_wins_over_any_experiment(
    experiment: tuple[str, ...], mine: Path, command: Command
) -> None:
    config = shown(command, f"--config-dir={mine}", *experiment, "trainer=short", "model=thin")
    assert (config["trainer"]["max_steps"], config["trainer"]["lr"]) == (3, 5e-5)
    assert (config["model"]["channels"], config["model"]["fourier"]) == (8, 0)
    assert config["trainer"]["checkpoint_every"] == 1000, "of trainer=default, on which short builds"
    changed = shown(command, f"--config-dir={mine}", *experiment, "trainer=short", "trainer.max_steps=7")
    assert changed["trainer"]["max_steps"] == 7, "a value wins over a group"


@pytest.mark.parametrize(
    ("words", "group", "key", "value"),
    [
        (("experiment=digits_vp", "sampler=heun"), "sampler", "steps", file_of("sampler/heun")["steps"]),
        (("experiment=digits_ve", "schedule=ve"), "schedule", "sigma_max", file_of("schedule/ve")["sigma_max"]),
        (("experiment=digits_ncsn", "density=levels"), "density", "n", 1000),
        (("experiment=fashion_flow", "trainer=digits"), "trainer", "max_steps", 1000),
        (("experiment=cifar_edm", "model=unet_small"), "model", "channel_multipliers", [1, 2, 2]),
    ],
)  # fmt: skip
def test_an_option_on_the_line_has_its_own_values(words: tuple[str, ...], group: str, key: str, value: Any) -> None:
    assert compose("train", *words)[group][key] == value
    assert compose("train", words[0])[group][key] != value, "which the experiment changes"


@pytest.mark.parametrize("name", ["digits_ddpm", "digits_ncsn", "digits_vdm"])
def test_a_density_in_the_place_of_one_with_parts(name: str) -> None:
    """The experiment chooses a part of its density, which the new one lacks."""
    density = compose("train", f"experiment={name}", "density=logit_normal")["density"]
    assert density == file_of("density/logit_normal")


@pytest.mark.parametrize("word", ["experiment=none", "experiment=null", "experiment=", "~experiment"])
def test_no_experiment_means_none(word: str) -> None:
    """On the digits the recipe has the numbers that digits_flow has, so other data of this size start as well."""
    assert compose("train", word) == compose("train", "experiment=digits_flow") == compose("train")


def test_other_data_have_no_experiment_by_default() -> None:
    assert compose("train", "dataset=moons") == compose("train", "experiment=none", "dataset=moons")


def test_a_group_that_is_there_can_be_added() -> None:
    assert compose("train", "+experiment=digits_vp") == compose("train", "experiment=digits_vp")
    assert compose("sample", "+schedule=vp") == compose("sample", "schedule=vp")


FOLDER = ("dataset=folder", "dataset.path=somewhere")
CASES = [
    (("dataset=moons",), "mlp", 256),
    ((*FOLDER, "dataset.size=32"), "unet_patch", 64),
    ((*FOLDER, "dataset.size=[48,64]"), "unet_patch", 32),
    ((*FOLDER, "dataset.size=[33,47]"), "unet_patch", 32),
    *(pytest.param(*case, marks=pytest.mark.wide) for case in [
        (("dataset=mixture", "dataset.means=[[0],[1]]", "dataset.weights=null", "dataset.covariances=1.0"), "mlp", 256),
        (("dataset=fashion_mnist",), "unet_patch", 64),
        (("dataset=cifar10", "experiment=none"), "unet_patch", 64),
        ((*FOLDER, "dataset.size=8"), "unet_digits", 128),
        ((*FOLDER, "dataset.size=128", "dataset.channels=1"), "unet_patch", 16),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "model", "batch"), CASES)
def test_other_data_get_a_network_and_numbers_that_suit_them(words: tuple[str, ...], model: str, batch: int) -> None:
    config = compose("train", *words)
    assert config["model"]["_target_"] == file_of(f"model/{model}")["_target_"]
    assert config["trainer"]["batch_size"] == batch
    assert config["trainer"]["max_steps"] > 1000
    assert config["objective"] == compose("train")["objective"]


SIDES = [
    ("images", (size, size), "") for size in (7, 16, 17, 25, 32, 40, 44, 90, 96, 100, 160)
] + [
    ("images", (33, 47), "images_64"), ("images", (1, 64), "images_64"), ("images", (3, 5), "images_8"),
    ("signals", (5,), "signals"), ("signals", (512,), "signals"), ("signals", (5001,), "signals_long"),
    ("volumes", (30, 17, 9), "volumes"), ("volumes", (1, 2, 3), "volumes"), ("volumes", (33, 8, 8), "volumes_large"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size", "name"), SIDES)
def test_the_network_of_a_recipe_takes_the_size(kind: str, size: tuple[int, ...], name: str) -> None:
    """It is built, and its output has the form of its input; on the device meta it takes no memory."""
    recipe = Form(name="own", kind=kind, size=size).recipe
    assert recipe.startswith(name or kind)
    config = compose("train", f"recipe={recipe}")
    with torch.device("meta"):
        network = Parts(config).part("model", torch.nn.Module, shape=(3, *size))
        x, t = torch.zeros(2, 3, *size), torch.zeros(2)
    assert network(x, t).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ((7,), Form(name="x", kind="points")),
        ((2, 300), Form(name="x", kind="signals", size=(300,))),
        ((3, 33, 47), Form(name="x", kind="images", size=(33, 47))),
        ((1, 30, 17, 9), Form(name="x", kind="volumes", size=(30, 17, 9))),
        ((1, 2, 2, 2, 2), Form(name="x", kind="points")),
    ],
)
def test_the_form_follows_the_shape(shape: tuple[int, ...], form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    from dfm.data import ImageFolder

    monkeypatch.setattr(ImageFolder, "shape_of", classmethod(lambda cls, node: shape))
    assert form_of(file_of("dataset/folder"), ("dfm",)) == form


@pytest.mark.parametrize(
    "name", [name for name in options("dataset") if name not in ("folder", "array", "hf", "webdataset")]
)
def test_a_data_set_says_its_form_without_being_made(name: str) -> None:
    """Fetched data are not here, so their published forms stand beside them."""
    published = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
    node = file_of(f"dataset/{name}")
    kind = target_of(node["_target_"], "dataset", ("dfm",))
    small = {key: 64 for key in ("n_train", "n_validation", "n_test") if key in node}
    made = published.get(name) or Parts({"dataset": {**node, **small}}).dataset.spec.shape
    form = form_of(node, ("dfm",))
    known = {1: "points", 2: "signals", 3: "images", 4: "volumes"}[len(made)]
    assert form == Form(name=name, kind=known, size=made[1:])
    assert kind.shape_of(node) in (made, None)


def test_an_experiment_keeps_its_method_and_loses_its_numbers_on_other_data(mine: Path, command: Command) -> None:
    config = compose("train", "experiment=digits_vp", "dataset=fashion_mnist")
    recipe = compose("train", "experiment=none", "dataset=fashion_mnist")
    own = compose("train", "experiment=digits_vp")
    for section in ("model", "trainer", "samples", "nll"):
        assert config[section] == recipe[section] != own[section] or section == "samples"
    for section in ("schedule", "objective", "sampler"):
        assert config[section] == own[section]
    wide = shown(command, f"--config-dir={mine}", "experiment=wide", "dataset=moons")
    assert wide["model"]["_target_"] == "dfm.models.MLP", "data that an experiment names through another"


def test_data_of_the_same_kind_and_size_keep_the_experiment() -> None:
    fashion = compose("train", "experiment=fashion_flow")
    mnist = compose("train", "experiment=fashion_flow", "dataset=mnist")
    assert {**mnist, "dataset": None} == {**fashion, "dataset": None}
    grey = compose("train", "experiment=cifar_vp", *FOLDER, "dataset.channels=1")
    assert grey["model"] == compose("train", "experiment=cifar_vp")["model"]
    oracle = ("dataset.means=[[0],[1]]", "dataset.weights=null", "dataset.covariances=1.0")
    assert compose("train", "experiment=mixture_oracle", *oracle)["trainer"]["max_steps"] == 100


def test_an_experiment_that_names_no_data_suits_all(mine: Path, command: Command) -> None:
    config = shown(command, f"--config-dir={mine}", "experiment=method", "dataset=moons")
    assert config["schedule"]["_target_"] == "dfm.paths.Cosine"
    assert config["model"]["_target_"] == "dfm.models.MLP"
    assert config["nll"]["n"] == 5, "what it says wins over the recipe"
    config = shown(command, f"--config-dir={mine}", "experiment=brief", "dataset=moons")
    assert config["trainer"]["lr"] == 5e-5, "and so does an option that it chooses"
    assert config["trainer"]["batch_size"] == 128


def test_the_line_wins_over_a_recipe() -> None:
    assert compose("train", "dataset=moons", "model.width=16", "trainer.lr=1e-4")["trainer"]["lr"] == 1e-4
    assert compose("train", "dataset=moons", "trainer=digits")["trainer"]["batch_size"] == 128
    assert compose("train", "dataset=moons", "recipe=none")["model"] == compose("train")["model"]
    assert compose("train", "recipe=images_32")["model"]["patch"] == 2


def test_a_mistake_beside_other_data_is_told_as_ever(command: Command) -> None:
    assert "unknown dataset 'moon'" in command("train", "dataset=moon", code=1).problem
    assert "dataset.sise" in command("train", *FOLDER, "dataset.sise=3", code=1).problem


def test_it_is_told_in_one_line_and_a_sweep_chooses_for_each_job(command: Command) -> None:
    tiny = [word for word in TINY if not word.startswith("model.")]
    tiny += ["nll.n=0", "trainer.validate_every=0", "logger=none"]
    outcome = command("train", "-m", "dataset=moons,mixture", *tiny)
    told = "recipe=points, model=mlp, batch 32, rate 0.002, 2 steps; the default experiment is made for other data"
    assert outcome.err.count(f"moons points: {told}\n") == 1
    assert outcome.err.count("mixture points: recipe=points") == 1
    assert "recipe=" not in command("train", *TINY, "nll.n=0", "logger=none").err


def test_the_form_of_the_data_in_words() -> None:
    assert str(Form(name="moons", kind="points")) == "moons points"
    assert str(Form(name="own", kind="images", size=(3, 5))) == "own images 3x5"
    unknown = Form(name="own", kind="images")
    assert (str(unknown), unknown.recipe) == ("own images of unknown size", "images_32")
    assert str(Form(name="own", kind="signals", size=(300,))) == "own signals 300"
