"""Classifier guidance: a noisy classifier steers a denoiser (Dhariwal and Nichol 2021, section 4)."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.denoiser import Denoiser, EvaluationCount, WrappedDenoiser
from dfm.denoising.noisy_classifier import Classifier
from dfm.paths.schedule import Schedule
from dfm.sampling.guidance import GuidanceByCheckpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierGuided(WrappedDenoiser):
    """The denoiser with the score: score + w g, where g = grad log p(label | x_t).

    E[noise | x_t] changes by -b w g, and E[data | x_t] by (b^2/a) w g.

    Args:
        inner: the denoiser to guide, on the same schedule. It gets the labels if it knows classes.
        classifier: a classifier of x_t on that schedule.
        scale, low, high: as in ``dfm.sampling.Guided``. Outside the interval the classifier is not called.
        calls: counts the calls of the classifier.
    """

    classifier: Classifier
    scale: float
    low: float = 0.0
    high: float = math.inf
    calls: EvaluationCount | None = None

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        data, noise = self.inner.expectations(x, t)
        nsr = self.schedule.log_nsr(t).exp().expand(len(x))
        rows = ((nsr >= self.low) & (nsr <= self.high)).nonzero().flatten()
        if self.scale == 0 or len(rows) == 0:
            return data, noise
        if self.label is None:
            raise UserError("guidance=classifier: no class to guide towards; try label=3")
        a, b = (c.expand(len(x))[rows] for c in self.schedule.ab(t))
        inside = rows.to(x.device)
        shift = self.scale * self._gradient(x[inside], t.expand(len(x))[rows], self.label.to(x.device)[inside])
        data = data.index_add(0, inside, (per_sample(b**2 / a, shift) * shift).to(data.dtype))
        return data, noise.index_add(0, inside, (per_sample(-b, shift) * shift).to(noise.dtype))

    def _gradient(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Return grad_x log p(label | x_t = x); it can be differentiated where gradients are on."""
        if self.calls is not None:
            self.calls.samples += len(x)
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            log_p = self.classifier.log_probabilities(x, t).gather(1, label[:, None]).sum()
            (gradient,) = torch.autograd.grad(log_p, x, create_graph=create_graph)
        return gradient

    def on_schedule(self, schedule: Schedule) -> Self:
        return replace(super().on_schedule(schedule), classifier=self.classifier.on_schedule(schedule))

    def with_labels(self, label: Tensor | None) -> Self:
        inner = self.inner.with_labels(label) if self.inner.spec.num_classes else self.inner
        return replace(self, label=label, inner=inner)

    def select(self, index: Tensor) -> Self:
        label = None if self.label is None else self.label[index.to(self.label.device)]
        return replace(self, label=label, inner=self.inner.select(index))

    def counted(self, calls: EvaluationCount) -> Denoiser:
        return replace(self, checks_times=False, inner=self.inner.counted(calls), calls=calls)


@dataclass(frozen=True, kw_only=True)
class ClassifierGuidance(GuidanceByCheckpoint):
    """Guidance by a noisy classifier, for models with and without classes (Dhariwal and Nichol 2021).

    For a model without classes, scale 1 is Bayes' rule.
    """

    second: ClassVar[str] = "classifier"
    towards_class: ClassVar[bool] = True

    scale: float = 1.0
    question: ClassVar[str] = (
        "guidance=classifier: which classifier? try guidance.ckpt=RUN, a run of objective=classifier"
    )

    def guide(self, denoiser: Denoiser, second: Any = None) -> Denoiser:
        denoiser.require_linear_path("guidance=classifier")
        mine, theirs = denoiser.spec, second.spec
        if theirs.shape != mine.shape or mine.num_classes not in (0, theirs.num_classes):
            raise UserError(
                f"guidance.ckpt={self.ckpt}: a classifier of {theirs.name} {theirs.shape}, {theirs.num_classes} "
                f"classes; allowed: {mine.shape}" + (f", {mine.num_classes} classes" if mine.num_classes else "")
            )
        names = mine.class_names or theirs.class_names
        return ClassifierGuided(
            **denoiser.common_fields() | {"spec": replace(mine, num_classes=theirs.num_classes, class_names=names)},
            inner=denoiser,
            classifier=second.on_schedule(denoiser.schedule),
            scale=self.scale,
            low=self.low,
            high=self.bound,
        )
