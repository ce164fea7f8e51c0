"""Draw samples 0 .. n-1 of a denoiser in batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.devices import resolve_device
from dfm.basics.errors import UserError
from dfm.data.spec import DatasetSpec
from dfm.denoising.arguments import check_denoiser, device_of
from dfm.denoising.denoiser import Denoiser
from dfm.sampling.grids import NoiseShareGrid
from dfm.sampling.labels import Label, asked_classes
from dfm.sampling.samplers import GridSampler, Sampler, State, start
from dfm.sampling.steppers.ode import Midpoint


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One state of the batch of the samples numbered ``indices``."""

    indices: Sequence[int]
    state: State


PIXELS = {"cpu": 1 << 16, "cuda": 1 << 19}  # in a batch; CPU: measured (docs/performance.md), GPU: a guess
MOST = 8192  # samples in a batch


def check_count(n: int, batch_size: int | None, names: tuple[str, str] = ("n", "batch_size")) -> None:
    """Refuse a number of samples or a batch size below one.

    Args:
        names: the keys of the two numbers, for the message.

    Raises:
        UserError: n or batch_size is below one, or is no whole number.
    """
    for name, value in zip(names, (n, batch_size), strict=True):
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise UserError(f"{name}={value}; allowed: a whole number of at least 1")


def batch_of(batch_size: int | None, spec: DatasetSpec, device: torch.device) -> int:
    """Return ``batch_size``, or for None the number of samples that have ``PIXELS`` pixels together.

    On a CPU an image took longer both in larger and in smaller batches. For a GPU, 8 times as many pixels are a guess,
    not a measurement.
    """
    return batch_size or max(1, min(MOST, PIXELS.get(device.type, PIXELS["cpu"]) // math.prod(spec.shape[1:])))


@torch.no_grad()
def sample_batches(
    denoiser: Denoiser,
    sampler: Sampler,
    indices: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    labels: Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[Moment]:
    """Yield every state of every batch; the last state of a batch is ``final``.

    Args:
        indices: the numbers of the samples. Sample k is the same in any batch and alone.
        labels: int64 (len(indices),), or None.

    Raises:
        UserError: the sampler has explicit times that do not start at t_max, the time of the prior.
    """
    if abs(sampler.start_time(denoiser) - denoiser.t_max) > 1e-9 * abs(denoiser.t_max):
        raise UserError(
            f"sampler.times starts at {sampler.start_time(denoiser):g}; allowed: t_max = {denoiser.t_max:g}, the time "
            "of the prior (from Python, sampler.run starts from your own x at any time)"
        )
    whole = denoiser.with_labels(None if labels is None else labels.to(device))
    for first in range(0, len(indices), batch_size):
        part = indices[first : first + batch_size]
        x = start(denoiser, seed, part, device)
        for state in sampler.trajectory(whole.select(torch.arange(first, first + len(part))), x, seed, part):
            yield Moment(indices=part, state=state)


@dataclass(frozen=True, kw_only=True)
class DrawResult:
    """Samples (n, ...) in the order of their numbers, and the mean number of evaluations per sample."""

    samples: Tensor
    nfe: float


def draw_samples(
    denoiser: Denoiser,
    sampler: Sampler,
    indices: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    labels: Tensor | None = None,
    device: torch.device | None = None,
    convert: Callable[[Tensor], Tensor] = Tensor.cpu,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> DrawResult:
    """Draw the samples numbered ``indices``, a batch at a time.

    Args:
        indices, labels: as for ``sample_batches``.
        convert: is applied to the samples of each batch; the default moves them to the CPU.
        watch: is called with every state of every batch, for progress bars.

    Raises:
        UserError: as ``sample_batches``.
    """
    batches, evaluations = [], 0.0
    for moment in sample_batches(
        denoiser, sampler, indices, seed=seed, batch_size=batch_size, labels=labels, device=device
    ):
        watch(moment)
        if moment.state.final:
            batches.append(convert(moment.state.x))
            evaluations += moment.state.nfe * len(moment.indices)
    return DrawResult(samples=torch.cat(batches), nfe=evaluations / len(indices))


# the same as configs/sampler/midpoint.yaml
DEFAULT_SAMPLER = GridSampler(stepper=Midpoint(), grid=NoiseShareGrid(power=0.6), steps=14)


def sample(
    denoiser: Denoiser,
    n: int,
    sampler: Sampler | None = None,
    seed: int = 0,
    batch_size: int = 256,
    label: Label = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw samples 0 .. n-1 in the unit of the data, float32 (n, *D): in [-1, 1] for images.

    Args:
        sampler: the default is the sampler of ``dfm sample``: a few-step model's own sampler, else the midpoint rule
            in 14 steps, 29 NFE.
        label: one class for all samples, its name or its number; a list of classes, which the samples take in turn;
            "all" for all classes in turn; "none" for the model without a class. None: the classes of
            ``denoiser.with_labels(labels)``; if there are none, the same as "all". ``dfm.sampling.labels`` says how
            names and numbers are told apart.

    Raises:
        UserError: n is below 1, or is not the number of the denoiser's labels; the model does not know the class, or
            needs one; or a few-step model does not know its own sampler.
    """
    check_denoiser(denoiser)
    check_count(n, batch_size)
    place = device_of(denoiser) if device is None else _same_device(denoiser, device)
    labels = denoiser.label if label is None else None
    if labels is None:
        labels = asked_classes(denoiser.spec, label, can_omit=denoiser.can_omit_label).of(range(n))
    elif len(labels) != n:
        raise UserError(f"n={n} samples from a denoiser with labels for {len(labels)}; allowed: n={len(labels)}")
    own = getattr(denoiser, "own_sampler", None)
    sampler = sampler or (own if isinstance(own, Sampler) else None)
    if sampler is None and not denoiser.has_ode:
        raise UserError("a few-step model has no ODE for the default sampler; try sampler=dfm.load(ckpt).own_sampler")
    return draw_samples(
        denoiser,
        sampler or DEFAULT_SAMPLER,
        range(n),
        seed=seed,
        batch_size=batch_size,
        labels=labels,
        device=place,
    ).samples


def _same_device(denoiser: Denoiser, device: torch.device | str) -> torch.device:
    """Return the device, which must be that of the denoiser's network.

    Raises:
        UserError: this machine has no such device, or the network is on another one.
    """
    wanted, own = resolve_device(str(device)), device_of(denoiser)
    if getattr(denoiser, "network", None) is not None and wanted != own:
        raise UserError(
            f"device={device}: the network is on {own}; allowed: device=None; try dfm.load(ckpt, '{device}')"
        )
    return wanted
