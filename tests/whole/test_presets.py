"""Every YAML preset composes, builds and trains two steps through the real command line."""

from pathlib import Path

import pytest
import torch
from support.cli import ALL, BOUNDS, FAST, POINTS, QUICK, UNET, Command
from support.image_files import overrides_for
from support.oracles import PREDICTIONS, SCHEDULES

from dfm.cli.composition.command_line import compose
from dfm.cli.composition.config_dirs import options
from dfm.runs.parts import Parts

NEEDS: dict[str, tuple[str, ...]] = {
    "coupling=label_aware": ("conditional=true",),
    "prior=mixture": POINTS,
    "prior=dataset": POINTS,
    "prior=double_well": (*POINTS, "objective=langevin", "sampler=euler_maruyama"),
    "prior=potential": (*POINTS, "objective=langevin", "sampler=euler_maruyama"),
    "objective=langevin": (*POINTS, "sampler=euler_maruyama"),
    "latent=root": ("objective=interpolant",),
}
NOT_ALONE = (
    ("objective", "progressive"), ("objective", "reflow"), ("grid", "integers"), ("dequantization", "importance"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("group", "option"),
    [pytest.param(g, o, marks=() if g == "objective" else pytest.mark.wide)
     for g in ("schedule", "prediction", "density", "weight", "coupling", "prior", "latent", "uncertainty", "objective",
               "augmentation", "grid", "logger", "likelihood", "dequantization", "trainer")
     for o in options(g) if (g, o) not in NOT_ALONE],
)  # fmt: skip
def test_options_that_go_with_the_default(group: str, option: str, command: Command) -> None:
    """Each as it is; those that need another choice beside them have it in NEEDS.

    Those that do not go alone have tests of their own: students of a teacher in test_students, importance in test_nll.
    """
    shorter = ("trainer.max_steps=2", "trainer.batch_size=16") if group == "trainer" else ()
    shorter += ("trainer.compile=false", "trainer.precision=fp32") if option == "gpu_long" else ()  # without a card
    beside = NEEDS.get(f"{group}={option}", ())
    thin = () if "model=mlp" in beside else UNET
    no_density = ("nll.n=0",) if option == "dataset" else ()  # a prior whose density is not known
    fast = list(FAST)
    if option == "all":
        fast = [*(text for text in FAST if text not in QUICK), *ALL]
    if option in BOUNDS:
        fast.remove(QUICK[0])
    few = ("trainer.batch_size=64",)  # batches of the validation split
    run = command("train", f"{group}={option}", *beside, *thin, *fast, *few, *shorter, *no_density).run
    assert (run / "checkpoints" / "step_00000002.pt").exists()


@pytest.mark.wide
@pytest.mark.parametrize("schedule", ["ddpm", "random_walk"])
def test_the_grid_of_whole_steps(schedule: str, command: Command) -> None:
    command("train", f"schedule={schedule}", "grid=integers", *UNET, *FAST)


@pytest.mark.wide
@pytest.mark.parametrize("option", options("sampler"))
def test_samplers(option: str, tiny_run: Path, command: Command) -> None:
    """On another schedule than the one of the training."""
    adaptive = option in ("dopri5", "bosh3", "heun_euler")
    steps = ["sampler.solver.rtol=0.1", "sampler.solver.atol=0.1"] if adaptive else ["sampler.steps=2"]
    run = command("sample", f"ckpt={tiny_run}", "schedule=vp", f"sampler={option}", "n=2", *steps).run
    assert (run / "samples.npz").exists()


@pytest.mark.wide
@pytest.mark.parametrize("option", options("dataset"))
def test_datasets(option: str, command: Command, tmp_path: Path) -> None:
    where = overrides_for(option, tmp_path)
    points = option in ("array", "moons", "checkerboard", "eight_gaussians", "swiss_roll", "mixture", "table")
    model = ["model=mlp"] if points else ["model=unet_small", "model.channels=4", "model.groups=4"]
    if option == "digits":
        model = [*UNET]
    command("train", f"dataset={option}", *model, *where, *FAST)


@pytest.mark.wide
@pytest.mark.parametrize("option", sorted(set(options("model")) - {"oracle"}))
def test_models(option: str, command: Command, tmp_path: Path) -> None:
    """The layouts as they are, but thin where they are wide."""
    data = {"unet": "cifar10", "unet_small": "fashion_mnist", "unet_patch": "fashion_mnist"}.get(option)
    where = [f"dataset={data}", *overrides_for(data, tmp_path)] if data else []
    thin = ["model.channels=32", "model.head_channels=32"] if option == "unet" else []
    command("train", f"model={option}", *where, *thin, *FAST)


@pytest.mark.wide
@pytest.mark.parametrize("option", options("experiment"))
def test_experiments(option: str, command: Command, tmp_path: Path) -> None:
    """Two steps of each, at full width but for the sampling and the large U-Nets."""
    kind = (
        "cifar10" if option.startswith("cifar") else {"fashion_flow": "fashion_mnist", "pictures": "folder"}.get(option)
    )
    where = overrides_for(kind, tmp_path) if kind else []
    smaller = ["trainer.batch_size=2", "samples.n=1", "nll.n=1", "nll.batch_size=1", *QUICK]
    smaller += ["trainer.compile=false", "trainer.precision=fp32"]  # what the large ones have for a card
    if option.endswith("vdm"):
        smaller.remove(QUICK[0])  # scored by a bound
    if kind == "cifar10":
        smaller.append("model.channels=64" if option == "cifar_flow" else "model.channels=32")
    if option.endswith("rectified"):
        data = ["dataset=cifar10", *where] if kind else []
        like = [] if kind == "cifar10" else ["model=unet_digits"]
        thin = ["model=unet", "model.channels=32", "model.blocks_per_level=1"] if kind == "cifar10" else []
        teacher = command("train", *data, *like, *thin, *FAST).run
        smaller += [f"init={teacher}", "objective.n=2", "objective.solver_steps=1", *thin[2:]]
    command("train", f"experiment={option}", *where, *smaller, "trainer.max_steps=2", "sampler.steps=2")


@pytest.mark.wide
@pytest.mark.parametrize("name", [name for name in options("experiment") if name.startswith("cifar")])
def test_presets_for_a_card_use_it(name: str, command: Command) -> None:
    import yaml

    asked = yaml.safe_load(command("train", f"experiment={name}", "--cfg", "job").out)["trainer"]
    assert (asked["precision"], asked["compile"], asked["channels_last"]) == ("bf16", True, True)
    assert asked["num_workers"] > 0, "batches are prepared and pinned beside the training"


# Millions of parameters that the papers state for their CIFAR-10 models.
PUBLISHED = {"ddpm": 35.7, "iddpm": 52.5, "edm": 55.7, "ot_flow": 35.75, "flow": 35.75}


@pytest.mark.wide
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_counts_are_the_papers(name: str, command: Command) -> None:
    """Counted without memory; within 0.2 per cent, but for EDM, whose resampling blocks are leaner (3 per cent)."""
    import yaml

    from dfm.models.unet import UNet

    text = command("train", f"experiment=cifar_{name}", "--cfg", "job").out
    options = yaml.safe_load(text)["model"]
    options.pop("_target_")
    with torch.device("meta"):
        network = UNet(shape=(3, 32, 32), **options)
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert count == pytest.approx(PUBLISHED[name], rel=0.03 if name == "edm" else 2e-3)


@pytest.mark.parametrize("name", ["digits_flow", "fashion_flow"])
@pytest.mark.parametrize("density", ["uniform", "cosine", "lognormal"])
def test_the_density_of_a_flow_preset_can_be_another(name: str, density: str) -> None:
    """Numbers of the preset's own density must not stay behind, as keys that another has not."""
    config = compose("train", f"experiment={name}", f"density={density}", "schedule=edm")
    assert Parts(config).objective


def test_schedules_are_all_here() -> None:
    """The list that these tests run over is the list of presets."""
    from dfm.cli.composition.config_dirs import config_dir

    for kind, names in (("schedule", SCHEDULES), ("prediction", PREDICTIONS)):
        assert sorted(p.stem for p in (config_dir() / kind).glob("*.yaml")) == sorted(names)
