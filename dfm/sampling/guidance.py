"""Guidance: a strong and a weak denoiser, whose difference is made larger by a factor w.

    D(x, t) = weak + w (strong - weak)        where nsr(t) is inside an interval;   D = strong outside it

holds for E[data | x_t], and therefore also for E[noise | x_t], the velocity and the score:

    classifier-free    strong = D(x, t; label), weak = D(x, t; no label)          (Ho and Salimans 2022, eq. 6)
    autoguidance       strong = D(x, t), weak = the D of another, weaker model    (Karras et al. 2024)
    classifier         score + w grad log p(label | x_t)                          (Dhariwal and Nichol 2021, section 4)

w = 0 is the weak denoiser and w = 1 the strong one, bit for bit, and each costs one call. The interval in nsr is due to
Kynkaanniemi et al. 2024: guidance at high noise reduces variety, and guidance at low noise has no effect. A Guided is
a Denoiser, so every sampler accepts it. Each call of either network counts as an evaluation.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.denoising.noise_end import NoiseEnd
from dfm.paths.schedule import Schedule

Ask = Callable[[Denoiser, Tensor, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, kw_only=True)
class Guided(Denoiser):
    """The denoiser weak + w (strong - weak) inside an interval of nsr. ``guided`` makes it from two denoisers.

    Args:
        strong, weak: two denoisers on the same schedule, for data of the same shape.
        scale: w.
        low, high: the interval of nsr, ends included.
        weak_labelled: whether the weak denoiser gets the labels, too.
    """

    strong: Denoiser
    weak: Denoiser
    scale: float
    low: float = 0.0
    high: float = math.inf
    weak_labelled: bool = True

    @property
    def is_linear_path(self) -> bool:
        return self.strong.is_linear_path and self.weak.is_linear_path

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        data, noise = self._guide(lambda d, x, t: d.expectations(x, t), x, t)
        return data, noise

    def data(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self._guide(lambda d, x, t: (d.data(x, t),), x, self.time(t, x))[0]

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self._guide(lambda d, x, t: (d.velocity(x, t),), x, self.time(t, x))[0]

    def velocity_and_score(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        velocity, score = self._guide(lambda d, x, t: d.velocity_and_score(x, t), x, self.time(t, x))
        return velocity, score

    def _guide(self, ask: Ask, x: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Return each tensor that ``ask`` gets from a denoiser, guided.

        At a given x_t, all these tensors are affine in E[data | x_t], so the formula holds for each of them.
        """
        nsr = self.schedule.log_nsr(t).exp()
        inside = (nsr >= self.low) & (nsr <= self.high)
        if self.scale == 1 or not bool(inside.any()):
            return ask(self.strong, x, t)
        if bool(inside.all()):
            weak = ask(self.weak, x, t)
            return weak if self.scale == 0 else self._stretch(weak, ask(self.strong, x, t))
        # Each sample of an adaptive solver has its own time. Only those inside the interval need both denoisers.
        rows = inside.nonzero().flatten().to(x.device)
        strong = ask(self.strong, x, t)
        weak = ask(self.weak.select(rows), x[rows], t[rows.to(t.device)])
        result = weak if self.scale == 0 else self._stretch(weak, tuple(s[rows] for s in strong))
        return tuple(s.index_copy(0, rows, r) for s, r in zip(strong, result, strict=True))

    def _stretch(self, weak: tuple[Tensor, ...], strong: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return weak + w (strong - weak) for each pair of tensors."""
        return tuple(w + self.scale * (s - w) for w, s in zip(weak, strong, strict=True))

    @property
    def t_min(self) -> float:
        return max(self.strong.t_min, self.weak.t_min)

    @property
    def t_max(self) -> float:
        return min(self.strong.t_max, self.weak.t_max)

    @property
    def can_change_schedule(self) -> bool:
        return self.strong.can_change_schedule and self.weak.can_change_schedule

    def on_schedule(self, schedule: Schedule) -> Self:
        return replace(
            self, schedule=schedule, strong=self.strong.on_schedule(schedule), weak=self.weak.on_schedule(schedule)
        )

    def with_labels(self, label: Tensor | None) -> Self:
        weak = self.weak.with_labels(label if self.weak_labelled else None)
        return replace(self, label=label, strong=self.strong.with_labels(label), weak=weak)

    def counted(self, calls: EvaluationCount) -> Denoiser:
        return replace(self, checks_times=False, strong=self.strong.counted(calls), weak=self.weak.counted(calls))

    @property
    def noise_end(self) -> NoiseEnd:
        return self.strong.noise_end


@dataclass(frozen=True, kw_only=True)
class Guidance(ABC):
    """A way to guide a denoiser (config group ``guidance``).

    Attributes:
        ckpt: the second checkpoint that the guidance needs; None if it needs none.
        second: the contents of that checkpoint, ``denoiser`` or ``classifier``.
        towards_class: whether it leads towards the class of a sample, so that there must be one.
    """

    ckpt: ClassVar[str | None] = None
    second: ClassVar[str] = "denoiser"
    towards_class: ClassVar[bool] = False

    @abstractmethod
    def guide(self, denoiser: Denoiser, second: Any = None) -> Denoiser:
        """Return the guided denoiser.

        Args:
            second: the denoiser (or classifier) of ``ckpt``.

        Raises:
            UserError: the two do not fit together.
        """


@dataclass(frozen=True, kw_only=True)
class NoGuidance(Guidance):
    """No guidance: the denoiser stays as it is."""

    def guide(self, denoiser: Denoiser, second: Any = None) -> Denoiser:
        return denoiser


@dataclass(frozen=True, kw_only=True)
class GuidanceWithScale(Guidance):
    """A guidance with a scale w in an interval of nsr: the common base of the ones below.

    Args:
        scale: w.
        low, high: the interval of nsr = b/a. If high is null, it has no upper end.

    Raises:
        UserError: the scale is not finite, or the interval is empty.
    """

    scale: float
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise UserError(f"guidance.scale={self.scale}; allowed: a finite number")
        if not 0 <= self.low < self.bound:
            raise UserError(
                f"guidance.low={self.low}, guidance.high={self.high}; allowed: 0 <= low < high, in nsr = b/a"
            )

    @property
    def bound(self) -> float:
        """``high`` as a number: infinity for None."""
        return math.inf if self.high is None else self.high


@dataclass(frozen=True, kw_only=True)
class ClassifierFree(GuidanceWithScale):
    """Classifier-free guidance: the weak denoiser is the same network without its label (Ho and Salimans 2022).

    Scale 0 is the unconditional model, 1 the conditional model, above 1 is guidance. (The paper's w is ours minus 1.)
    """

    towards_class: ClassVar[bool] = True

    def guide(self, denoiser: Denoiser, second: Any = None) -> Denoiser:
        if denoiser.spec.num_classes == 0:
            raise UserError(
                "guidance=cfg: this model was trained without classes; allowed: guidance=none, guidance=autoguidance, "
                "or a model trained with conditional=true label_dropout=0.1"
            )
        if not denoiser.can_omit_label:
            raise UserError(
                "guidance=cfg: this model was trained without label_dropout, so it has no output for 'no class'; "
                "try guidance=autoguidance guidance.ckpt=RUN_DIR, or a model trained with label_dropout=0.1"
            )
        return guided(denoiser, denoiser.with_labels(None), self.scale, self.low, self.high, weak_labelled=False)


@dataclass(frozen=True, kw_only=True)
class GuidanceByCheckpoint(GuidanceWithScale):
    """A guidance by a second checkpoint.

    Args:
        ckpt: the second checkpoint.

    Attributes:
        question: the message if it is missing.

    Raises:
        UserError: ckpt is missing.
    """

    ckpt: PathText | None = None  # type: ignore[misc]
    question: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ckpt is None:
            raise UserError(self.question)


@dataclass(frozen=True, kw_only=True)
class Autoguidance(GuidanceByCheckpoint):
    """Autoguidance by a weaker model of the same data, e.g. an earlier checkpoint (Karras et al. 2024)."""

    scale: float = 2.0
    question: ClassVar[str] = (
        "guidance=autoguidance: which is the weaker model? try guidance.ckpt=RUN_DIR, or an early checkpoint of the "
        "same run (trainer.keep_checkpoints keeps more of them)"
    )

    def guide(self, denoiser: Denoiser, second: Any = None) -> Denoiser:
        assert isinstance(second, Denoiser)
        mine, theirs = denoiser.spec, second.spec
        if (theirs.shape, theirs.num_classes) != (mine.shape, mine.num_classes):
            raise UserError(
                f"guidance.ckpt={self.ckpt}: a model of {theirs.name} {theirs.shape}, {theirs.num_classes} classes; "
                f"allowed: {mine.shape}, {mine.num_classes} classes, as in the model that it guides"
            )
        if second.prior != denoiser.prior or second.independent != denoiser.independent:
            raise UserError(
                f"guidance.ckpt={self.ckpt}: a model with another prior or coupling; allowed: the same ones "
                "as in the model that it guides, since both must have one path"
            )
        if denoiser.has_ode and not second.has_ode:
            raise UserError(
                f"guidance.ckpt={self.ckpt}: a few-step model, whose jumps are not E[data | x_t]; allowed: its teacher"
            )
        return guided(denoiser, second.on_schedule(denoiser.schedule), self.scale, self.low, self.high)


def guided(
    strong: Denoiser,
    weak: Denoiser,
    scale: float,
    low: float = 0.0,
    high: float | None = None,
    weak_labelled: bool = True,
) -> Guided:
    """Return the denoiser weak + scale (strong - weak) where low <= nsr <= high (None: no upper end)."""
    return Guided(
        spec=strong.spec,
        schedule=strong.schedule,
        label=strong.label,
        prior=strong.prior,
        independent=strong.independent and weak.independent,
        has_ode=strong.has_ode and weak.has_ode,
        strong=strong,
        weak=weak,
        scale=scale,
        low=low,
        high=math.inf if high is None else high,
        weak_labelled=weak_labelled,
    )
