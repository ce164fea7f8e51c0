"""Samples 0 .. n-1 of a denoiser in batches, ready to be drawn or stored."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.pixel_levels import quantize, to_eight_bits
from dfm.denoising.denoiser import Denoiser, device_of
from dfm.sampling.grids import NoiseShareGrid
from dfm.sampling.samplers import GridSampler, Sampler, State, start
from dfm.sampling.steppers.ode import Midpoint


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A state of the batch that holds the samples numbered ``indices``."""

    indices: Sequence[int]
    state: State


PIXELS = {"cpu": 1 << 16, "cuda": 1 << 19}  # of a batch; README, "Speed and growth", has what the first is from
MOST = 8192  # points


def check_count(n: int, batch_size: int | None) -> None:
    """Refuse a number of samples or a batch size below one.

    Raises:
        UserError: either is.
    """
    for name, value in (("n", n), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value}; allowed: a whole number of at least 1")


def batch_of(given: int | None, spec: DatasetSpec, device: torch.device) -> int:
    """The batch size ``with_labels``, or for None one that suits the device: so many samples as make up its ``PIXELS``.

    On a CPU an image took longer in larger ones, and in smaller ones too; for a GPU 8 times that is assumed, not
    measured.
    """
    return given or max(1, min(MOST, PIXELS.get(device.type, PIXELS["cpu"]) // math.prod(spec.shape[1:])))


def check_labels(spec: DatasetSpec, label: int | str | None, indices: Sequence[int]) -> Tensor | None:
    """The classes of the samples numbered ``indices``, int64 (n,): all ``label``, or k modulo the classes for sample k.

    ``label`` None or "all" is the latter. An unconditional model has none.

    Raises:
        UserError: the model knows no classes, or not this one.
    """
    if spec.num_classes == 0:
        if label is not None:
            raise UserError(f"label={label}: this model was trained without classes; try conditional=true in training")
        return None
    if label is None or label == "all":
        return torch.tensor([k % spec.num_classes for k in indices])
    if isinstance(label, str) or not 0 <= label < spec.num_classes:
        raise UserError(f"label={label}; allowed: 0 to {spec.num_classes - 1}, or all")
    return torch.full((len(indices),), label)


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
    """Every state of every batch; a batch ends with its ``final`` state.

    Args:
        indices: numbers of the samples; sample k is the same in any batch and alone.
        labels: int64 (len(indices),), or None.

    Raises:
        UserError: explicit times that do not begin at t_max, where the prior's draws belong.
    """
    if abs(sampler.start_time(denoiser) - denoiser.t_max) > 1e-9 * abs(denoiser.t_max):
        raise UserError(
            f"sampler.times begins at {sampler.start_time(denoiser):g}; allowed: t_max = {denoiser.t_max:g}, where the "
            "prior is drawn from (from Python, sampler.run takes an x of your own at any time)"
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
        convert: what becomes of the samples of each batch; by default they move to the CPU.
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


def as_data(samples: Tensor, spec: DatasetSpec) -> Tensor:
    """Samples as ``Split`` has examples: images as levels uint8 (B, C, H, W), points float32 (B, d)."""
    return samples.float().cpu() if spec.levels is None else quantize(samples, spec.levels).cpu()


def stored(samples: Tensor, spec: DatasetSpec) -> Tensor:
    """Samples as they are stored: images uint8 (B, C, H, W) over 0 .. 255, points float32 (B, d)."""
    return spread(as_data(samples, spec), spec)


def spread(values: Tensor, spec: DatasetSpec) -> Tensor:
    """What ``as_data`` gave, with the levels of images over 0 .. 255."""
    return values if spec.levels is None else to_eight_bits(values, spec.levels)


DEFAULT_SAMPLER = GridSampler(
    stepper=Midpoint(), grid=NoiseShareGrid(power=0.6), steps=14
)  # as configs/sampler/midpoint


def sample(
    denoiser: Denoiser,
    n: int,
    sampler: Sampler | None = None,
    seed: int = 0,
    batch_size: int = 256,
    label: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Samples 0 .. n-1 in the unit of the data, float32 (n, *D): [-1, 1] for images.

    Args:
        sampler: default that of ``dfm sample``: a few-step student's own, else the midpoint rule in 14 steps, 29 NFE.
        label: a class for all, or None: the classes of ``denoiser.with_labels(labels)``, else, for a conditional model,
            classes in turn.

    Raises:
        UserError: n below 1 or not as many as the classes given, a label that the model does not know, or a student
            whose own sampler is not known.
    """
    check_count(n, batch_size)
    labels = denoiser.label if label is None else None
    if labels is None:
        labels = check_labels(denoiser.spec, label, range(n))
    elif len(labels) != n:
        raise UserError(f"n={n} of a denoiser that was given {len(labels)} classes; allowed: n={len(labels)}")
    own = getattr(denoiser, "own_sampler", None)
    how = sampler or (own if isinstance(own, Sampler) else None)
    if how is None and not denoiser.has_ode:
        raise UserError("a few-step model has no ODE for the default sampler; try sampler=dfm.load(ckpt).own_sampler")
    how = how or DEFAULT_SAMPLER
    place = torch.device(device) if device is not None else device_of(denoiser)
    return draw_samples(denoiser, how, range(n), seed=seed, batch_size=batch_size, labels=labels, device=place).samples
