"""Training: one generator that takes an optimiser step at a time and yields what happened.

Batch k, its noise, its times and its dequantisation are functions of (seed, k, rank); with the weights, the moving
average and the optimiser's state, the number of the step is the whole state of a run.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dfm.batches import Augmentation, Batch, Batches
from dfm.datasets.base import DatasetSpec, Split
from dfm.dequantization import Dequantization, Uniform
from dfm.ema import Ema
from dfm.errors import UserError
from dfm.objectives import Loss, Model, Objective
from dfm.seeding import Purpose, checked_seed, lent_seed, training_generator


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The numbers of a training run (config group ``trainer``).

    Args:
        max_steps: optimiser steps. max_minutes: stop earlier, after this many minutes of training (null: never).
        batch_size: examples an optimiser step; ``accumulate`` splits it into that many passes.
        lr: peak rate of AdamW, reached after ``warmup_steps``, then ``cosine`` to zero or ``constant``.
        clip_grad: bound on the gradient's norm (null: none).
        ema_decay: of the averaged weights. checkpoint_every, sample_every, validate_every, log_every: in steps, 0 for
            never (the last step is always kept); keep_checkpoints: the newest so many.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``. precision: ``fp32`` or ``bf16`` (autocast).
        compile: torch.compile the network. channels_last: memory layout of convolutions.
        num_workers: threads that prepare batches ahead.

    Raises:
        UserError: a number out of range.
    """

    max_steps: int
    max_minutes: float | None = None
    batch_size: int = 128
    accumulate: int = 1
    lr: float = 1e-3
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip_grad: float | None = 1.0
    ema_decay: float = 0.999
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    sample_every: int = 1000
    validate_every: int = 500
    log_every: int = 50
    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    channels_last: bool = True
    num_workers: int = 0

    def __post_init__(self) -> None:
        checked_seed(self.seed)
        at_least = {"max_steps": 0, "batch_size": 1, "accumulate": 1, "keep_checkpoints": 1, "log_every": 1}
        zero = (
            "checkpoint_every",
            "sample_every",
            "validate_every",
            "num_workers",
            "warmup_steps",
            "weight_decay",
            "lr",
        )
        for name, least in {**at_least, **dict.fromkeys(zero, 0)}.items():
            if not getattr(self, name) >= least:
                raise UserError(f"trainer.{name}={getattr(self, name)}; allowed: at least {least}")
        for name in ("max_minutes", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"trainer.{name}={value}; allowed: above 0, or null for none")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"trainer.batch_size={self.batch_size} is not divisible by trainer.accumulate={self.accumulate}"
            )


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimiser step. ``loss`` and ``grad_norm`` are tensors: float() waits for the device, so only to log."""

    step: int
    images: int
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float
    seconds: float


def resolve_device(name: str, local: int = 0) -> torch.device:
    """``auto`` is cuda where there is one, else the CPU.

    Args:
        local: number of this process on its machine: its share of the cards.

    Raises:
        UserError: no such device here.
    """
    if name == "auto":
        cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return torch.device("cuda", local % cards) if cards else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UserError(f"device '{name}' is not to be had on this machine; allowed: auto, cpu, cuda, cuda:N") from None
    return device


class Trainer:
    """Trains a denoiser's network on a split by an objective.

    Args:
        denoiser: or noisy classifier; its network is moved to ``device`` and trained in place.
        flip: mirror images left to right with chance 1/2.
        dequantization: how integer levels become real numbers.
        label_dropout: share of the examples whose class is hidden, each by itself (Ho and Salimans 2022).

    Raises:
        UserError: as ``Augmentation``.
    """

    def __init__(
        self,
        config: TrainerConfig,
        denoiser: Model,
        objective: Objective,
        split: Split,
        *,
        device: torch.device,
        flip: bool = False,
        dequantization: Dequantization | None = None,
        label_dropout: float = 0.0,
    ) -> None:
        self.config, self.objective, self.device = config, objective, device
        self.dequantization = dequantization or Uniform()
        self.augmentation = Augmentation(flip=flip, label_dropout=label_dropout, num_classes=denoiser.spec.num_classes)
        self.network = _laid_out(denoiser.module().to(device), denoiser.spec, config.channels_last)
        self.ema = Ema(self.network, config.ema_decay)
        forward = torch.compile(self.network) if config.compile else self.network
        self.denoiser = replace(denoiser, network=forward)
        self.batches = Batches(split, config.batch_size, config.seed)
        self.learned = objective.module().to(device)
        self.parameters = [*self.network.parameters(), *self.learned.parameters()]
        self.optimizer = self._make_optimizer()
        self.step, self.seconds = 0, 0.0

    @property
    def averaged(self) -> Any:
        """The denoiser (or classifier) with the averaged weights: what is sampled from and scored."""
        return replace(self.denoiser, network=self.ema.network)

    @property
    def progress(self) -> float:
        """The done share of the run, by steps or by minutes, whichever is further."""
        shares = [self.step / self.config.max_steps if self.config.max_steps else 1.0]
        if self.config.max_minutes is not None:
            shares.append(self.seconds / (60 * self.config.max_minutes))
        return min(1.0, max(shares))

    def steps(self) -> Iterator[StepReport]:
        """Train to the end of the run, yielding after each optimiser step.

        Time is counted between yields only: what the caller does with a report is not training.

        Raises:
            UserError: the loss or the gradient is not finite; the step is not taken.
        """
        batches = self.batches.stream(self.step, self.config.num_workers)
        with contextlib.closing(batches):
            while self.progress < 1:
                began = time.perf_counter()
                loss, grad_norm, rate = self._take(next(batches))
                self.seconds += time.perf_counter() - began
                yield StepReport(
                    step=self.step,
                    images=self.step * self.config.batch_size,
                    loss=loss,
                    grad_norm=grad_norm,
                    learning_rate=rate,
                    seconds=self.seconds,
                )

    def learning_rate(self) -> float:
        """The rate of the coming step: linear warm-up, then cosine to zero or constant."""
        config = self.config
        rate = config.lr * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        return rate * (1 + math.cos(math.pi * self.progress)) / 2 if config.lr_schedule == "cosine" else rate

    def validation_loss(self, split: Split, limit: int = 512) -> float:
        """Mean loss of the averaged weights on a split, with the same noise and times at every call."""
        n = min(limit, len(split))
        total = 0.0
        with torch.no_grad():
            for k, first in enumerate(range(0, n, self.config.batch_size)):
                rows = slice(first, min(first + self.config.batch_size, n))
                generator = training_generator(self.device, self.config.seed, k, 0, Purpose.VALIDATE)
                labels = None if split.labels is None else split.labels[rows]
                total += float(self._losses(self.averaged, split.values[rows], labels, generator, 1.0).value.sum())
        return total / n

    def state(self) -> dict[str, Any]:
        """Everything a run needs to go on, in tensors and plain numbers."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network.state_dict(),
            "ema": self.ema.network.state_dict(),
            "objective": self.learned.state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.network.load_state_dict(state["network"])
        self.ema.network.load_state_dict(state["ema"])
        self.learned.load_state_dict(state.get("objective", {}), strict="objective" in state)
        if self.optimizer:
            self.optimizer.load_state_dict(state["optimizer"])

    def _make_optimizer(self) -> torch.optim.Optimizer | None:
        if not self.parameters:  # an oracle has nothing to train: its loss is the floor of the objective
            return None
        config = self.config
        return torch.optim.AdamW(
            self.parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )

    def _take(self, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """One optimiser step: (loss, gradient norm, learning rate)."""
        self.network.train()
        rate = self.learning_rate()
        with lent_seed(self.device, self.config.seed, self.step, 0, Purpose.DROPOUT):
            loss = self._accumulate_gradients(batch)
        bound = math.inf if self.config.clip_grad is None else self.config.clip_grad
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, bound) if self.parameters else torch.zeros(())
        self._refuse_non_finite(loss, grad_norm)
        if self.optimizer:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.step)
        return loss, grad_norm, rate

    def _accumulate_gradients(self, batch: Batch) -> Tensor:
        generator = training_generator(self.device, self.config.seed, self.step, 0, Purpose.TRAIN)
        passes = self.config.accumulate
        batch = self.augmentation(batch, self.config.seed, self.step)
        labels = [None] * passes if batch.labels is None else batch.labels.chunk(passes)
        total = torch.zeros((), device=self.device)
        for values, label in zip(batch.values.chunk(passes), labels, strict=True):
            losses = self._losses(self.denoiser, values, label, generator, self.progress)
            loss = losses.value.mean() / passes
            if loss.requires_grad:
                loss.backward()
            self.objective.observe(losses)
            total += loss.detach()
        return total

    def _losses(
        self,
        denoiser: Model,
        values: Tensor,
        labels: Tensor | None,
        generator: torch.Generator,
        progress: float,
    ) -> Loss:
        """Losses of a batch in the split's own numbers."""
        data = values.to(self.device, non_blocking=True)
        if denoiser.spec.levels is not None:
            data = self.dequantization.training(data, denoiser.spec.levels, generator)
        if denoiser.spec.num_classes == 0:
            labels = None
        given = denoiser.given(None if labels is None else labels.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.objective.loss(given, data, generator, progress)

    def _refuse_non_finite(self, loss: Tensor, grad_norm: Tensor) -> None:
        if bool(torch.isfinite(loss) & torch.isfinite(grad_norm)):
            return
        raise UserError(
            f"step {self.step + 1}: loss {float(loss)}, gradient norm {float(grad_norm)}; the step was not taken and "
            f"the last checkpoint stands; try a smaller trainer.lr (now {self.config.lr:g}), a smaller "
            "trainer.clip_grad or trainer.precision=fp32"
        )


def _laid_out(network: nn.Module, spec: DatasetSpec, channels_last: bool) -> nn.Module:
    return network.to(memory_format=torch.channels_last) if channels_last and len(spec.shape) == 3 else network
