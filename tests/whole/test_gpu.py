"""What only a card can show: the same numbers as on the CPU, precision by name, pinned copies, memory, compiling.

Skipped where there is none. ``trainer.device=auto`` takes the card, so that on such a machine the rest of the tests
run on it too.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import Command
from support.image_files import overrides_for
from support.unet_cases import inputs, unet
from torch import nn

from dfm.basics.devices import laid_out, products, resolve_device
from dfm.basics.errors import UserError
from dfm.data.dataset import Split
from dfm.data.numbers.pixel_levels import dequantize
from dfm.data.published.digits import Digits
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.unet import UNet
from dfm.paths.interpolating import Linear
from dfm.sampling.draw import sample_batches
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import Heun
from dfm.training.batches import Augmentation, Batches
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression
from dfm.training.optimizers import Muon
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def denoiser(device: str, **options: object) -> NetworkDenoiser:
    """A U-Net with random weights, the same on every device."""
    torch.manual_seed(5)
    spec = replace(Digits().spec, num_classes=0)
    settings = {"channels": 32, "channel_multipliers": (1, 2), "groups": 8, "zero_init": False, **options}
    network = UNet(shape=spec.shape, **settings).to(resolve_device(device))  # type: ignore[arg-type]
    return NetworkDenoiser(
        spec=spec, schedule=Linear(), trained_schedule=Linear(), prediction=Velocity(),
        network=network.eval(),
    )  # fmt: skip


def trainer(blocks_per_level: int = 1, **changes: Any) -> Trainer:
    """On the digits, on the card; compiling takes its time by the number of blocks."""
    settings = {"max_steps": 6, "batch_size": 32, "warmup_steps": 2, "num_workers": 2, **changes}
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    split = Digits().split("train")
    model = denoiser("cuda", blocks_per_level=blocks_per_level)
    return Trainer(TrainerConfig(**settings), model, objective, split, device=resolve_device("cuda"))


def losses(**changes: Any) -> list[float]:
    return [float(report.loss) for report in trainer(**changes).steps()]


@pytest.fixture(scope="module")
def plain() -> list[float]:
    """The losses of six steps in float32."""
    return losses()


def test_float32_is_float32_and_tf32_is_asked_for() -> None:
    """Against float64: TF32 keeps 10 bits of a factor where float32 keeps 23, bf16 7."""
    device, (x, t) = resolve_device("cuda"), (torch.randn(16, 1, 8, 8), torch.linspace(-4, 4, 16))
    exact = denoiser("cpu").module().double()(x.double(), t.double())
    network, errors = denoiser("cuda").module(), {}
    for name in ("fp32", "tf32", "bf16"):
        with torch.no_grad(), products(name, device):  # type: ignore[arg-type]
            out = network(x.to(device), t.to(device)).double().cpu()
        errors[name] = float((out - exact).norm() / exact.norm())
    assert errors["fp32"] < errors["tf32"] / 20
    assert errors["tf32"] < errors["bf16"] < 0.1


@pytest.mark.parametrize("likelihood", [OdeLikelihood(steps=6), OdeLikelihood(steps=4, divergence="exact")])
def test_densities_are_those_of_the_cpu(likelihood: OdeLikelihood) -> None:
    levels = Digits().split("test").values[:4]
    data = dequantize(levels, Digits().spec.levels or 0, torch.rand(levels.shape, generator=torch.manual_seed(2)))
    values = {}
    for name in ("cpu", "cuda"):
        there = resolve_device(name)
        values[name] = likelihood.log_density(denoiser(name), data.to(there), 3).value.cpu()
    assert torch.allclose(values["cpu"], values["cuda"], rtol=1e-5, atol=1e-3)


def test_samples_are_those_of_the_cpu() -> None:
    sampler, found = GridSampler(stepper=Heun(), steps=5), {}
    for name in ("cpu", "cuda"):
        moments = sample_batches(
            denoiser(name), sampler, range(8), seed=1, batch_size=4, device=resolve_device(name)
        )  # fmt: skip
        found[name] = torch.cat([m.state.x.cpu() for m in moments if m.state.final])
    assert torch.allclose(found["cpu"], found["cuda"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 12), (1, 7), (2, 5, 9), (2, 4, 8, 4), (1, 3, 5, 2)])
def test_signals_images_and_volumes_of_any_size_are_those_of_the_cpu(shape: tuple[int, ...]) -> None:
    """Output and gradient in float64, in the layout of training."""
    found = []
    x, c_time = (part.double() for part in inputs(shape))
    for name in ("cpu", "cuda"):
        torch.manual_seed(3)
        network = laid_out(unet(shape, scale_shift=True, patch=2).double().to(resolve_device(name)), True)
        given = x.to(resolve_device(name)).requires_grad_()
        out = network(given, c_time.to(given.device))
        found.append([out, *torch.autograd.grad(out.square().sum(), given)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs.cpu(), mine, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"activation_checkpointing": True}, 1e-4),
        ({"compile": True}, 1e-4),
        ({"compile": True, "activation_checkpointing": True}, 1e-4),
        ({"channels_last": False}, 1e-4),
        ({"precision": "tf32"}, 1e-3),
        ({"precision": "bf16"}, 2e-2),
        ({"precision": "bf16", "compile": True}, 2e-2),
    ],
)
def test_losses_with_every_option(plain: list[float], changes: dict[str, object], tolerance: float) -> None:
    assert losses(**changes) == pytest.approx(plain, rel=tolerance)


def test_batches_are_pinned_and_the_same() -> None:
    split = Split(values=Digits().split("train").values, labels=torch.arange(len(Digits().split("train"))) % 10)
    device, augment = resolve_device("cuda"), Augmentation(flip=True, label_dropout=0.3, num_classes=10)
    for k in range(3):
        pinned, usual = Batches(split, 8, 0, pinned=True).batch(k), Batches(split, 8, 0).batch(k)
        assert pinned.values.is_pinned()
        assert pinned.labels is not None
        assert pinned.labels.is_pinned()
        there, here = augment(pinned.to(device), 4, k), augment(usual, 4, k)
        assert torch.equal(there.values.cpu(), here.values)
        assert there.labels is not None
        assert here.labels is not None
        assert torch.equal(there.labels.cpu(), here.labels)


def test_activation_checkpointing_takes_less_memory() -> None:
    peaks = []
    for spared in (False, True):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        losses(activation_checkpointing=spared, batch_size=1024, max_steps=1, blocks_per_level=2)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.8 * peaks[0]  # 0.68 on an H100: of so few blocks one, computed anew, is a large part


def test_the_steps_of_muon_are_those_of_the_cpu() -> None:
    """Of the same gradients. A singular value near nought may be grown by rounding, hence gradients of full rank."""
    shapes = [(32, 16, 3, 3), (32, 16, 3, 3), (8, 24), (16,)]
    weights, moved = [torch.randn(shape, generator=torch.manual_seed(3)) for shape in shapes], {}
    for name in ("cpu", "cuda"):
        parameters = [nn.Parameter(w.to(name, copy=True)) for w in weights]
        optimizer = Muon(parameters[:3], [parameters[3:]], lr=1e-2, fused=True)
        generator = torch.manual_seed(4)
        for _ in range(3):
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(name)
            optimizer.step()
        moved[name] = [(p.detach().cpu() - w).flatten() for p, w in zip(parameters, weights, strict=True)]
    for here, there in zip(moved["cpu"], moved["cuda"], strict=True):
        assert (here - there).norm() < 1e-3 * here.norm()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_goes_on_as_it_would_have(optimizer: str) -> None:
    whole = [float(report.loss) for report in trainer(optimizer=optimizer).steps()]
    first, second = trainer(optimizer=optimizer), trainer(optimizer=optimizer)
    reports = first.steps()
    begun = [float(next(reports).loss) for _ in range(3)]
    second.load_state(first.state())
    reports.close()
    assert begun + [float(report.loss) for report in second.steps()] == pytest.approx(whole, rel=1e-4)


def test_too_little_memory_is_said_in_one_line() -> None:
    share = 2**30 / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        with pytest.raises(UserError, match=r"out of memory.*trainer.activation_checkpointing=true"):
            next(trainer(batch_size=1 << 15).steps())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_preset_for_a_card_as_it_is_shipped(command: Command, tmp_path: Path) -> None:
    """bf16, compiled, pinned batches by two threads; smaller, and on files in CIFAR-10's format that the test makes."""
    small = ["model.channels=64", "model.blocks_per_level=1"]
    small += ["trainer.max_steps=3", "trainer.batch_size=8", "samples.n=2", "nll.n=0"]
    run = command("train", "experiment=cifar_flow", *overrides_for("cifar10", tmp_path), *small).run
    assert (run / "checkpoints" / "step_00000003.pt").exists()


def test_a_run_on_the_card_is_scored_on_the_cpu(command: Command, tmp_path: Path) -> None:
    small = ["model.channels=8", "model.groups=4", "trainer.max_steps=4", "samples.n=4", "sampler.steps=2"]
    run = command("train", *small, "nll.n=16", "likelihood.steps=6", "trainer.device=cuda").run
    found = []
    for device in ("cpu", "cuda"):
        done = command("nll", f"ckpt={run}", "n=16", "likelihood.steps=6", f"device={device}")
        found.append(json.loads((done.run / "nll.json").read_text())["bits_per_dim"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
