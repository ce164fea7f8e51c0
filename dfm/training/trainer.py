"""Training: one generator that takes an optimiser step at a time and yields what happened.

Batch k, its noise, its times and its dequantisation are functions of (seed, k, part), whichever process takes the part.
So the number of the step, the weights, their average and the optimiser's state are the whole state of a run.
"""

import contextlib
import copy
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from dfm.basics.devices import check_precision, laid_out, products, recompute, tf32
from dfm.basics.processes import World
from dfm.basics.seeding import Purpose, seeded, training_generator
from dfm.data.dataset import Split
from dfm.data.dequantization import Dequantization, UniformDequantization
from dfm.training.batches import Augmentation, Batch, Batches
from dfm.training.ema import Ema
from dfm.training.objectives.base import Loss, Model, Objective, density_memory
from dfm.training.optimizers import optimizer
from dfm.training.parallel.strategy import check_parallel, hold_network, unused_parameter
from dfm.training.step_failures import SkippedStep, compile_failed, diagnose, merge, out_of_memory, too_many_skipped
from dfm.training.trainer_config import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimiser step. ``loss`` and ``grad_norm`` are tensors: float() waits for the device, so only to log.

    ``skipped`` is set where the step was not taken; ``measurements`` come from a round that started with this step.
    """

    step: int
    images: int
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float
    seconds: float
    skipped: SkippedStep | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)


class Trainer:
    """Trains a denoiser's network on a split by an objective.

    Args:
        denoiser: or noisy classifier; its network is moved to ``device`` and trained in place.
        flip: mirror images left to right with chance 1/2.
        dequantization: how integer levels become real numbers.
        label_dropout: share of the examples whose class is hidden, each by itself (Ho and Salimans 2022).
        world: the processes that share the parts of each batch (``accumulate`` of them); how many processes there are
            does not change a step but for the order in which floats are added.

    Raises:
        UserError: as ``Augmentation``; or parts that cannot be shared out.
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
        world: World | None = None,
    ) -> None:
        self.config, self.objective, self.device, self.world = config, objective, device, world or World()
        check_precision(config.precision, device)
        check_parallel(config, objective.shardable, self.world)
        self.dequantization = dequantization or UniformDequantization()
        self.augmentation = Augmentation(flip=flip, label_dropout=label_dropout, num_classes=denoiser.spec.num_classes)
        images = len(denoiser.spec.shape) == 3
        self.network = laid_out(denoiser.module().to(device), config.channels_last and images)
        self.learned = objective.module(self.network).to(device)
        average = copy.deepcopy(self.network)
        self.parallel = hold_network(config.parallel, self.network, average, self.world)
        self.ema = Ema(self.network, average, config.ema_decay)
        if config.activation_checkpointing:
            recompute(self.network)
        forward = torch.compile(self.parallel.forward) if config.compile else self.parallel.forward
        self.denoiser = replace(denoiser, network=forward)
        self.batches = Batches(split, config.batch_size, config.seed, pinned=device.type == "cuda")
        self.parameters = [*self.network.parameters(), *(p for p in self.learned.parameters() if p.requires_grad)]
        # none for an oracle, whose loss is the floor of the objective
        self.optimizer = optimizer(config, self.network, self.learned)
        self.step, self.seconds = 0, 0.0
        self.averaged_since, self.skipped_in_a_row = 0, 0

    def averaged(self, everywhere: bool = True) -> Any:
        """The denoiser (or classifier) with the averaged weights: what is sampled from and scored.

        All processes ask together, since each may hold a share of the weights.

        Args:
            everywhere: else only the first process is going to use it.
        """
        return replace(self.denoiser, network=self.parallel.gathered_copy(self.ema.network, everywhere))

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Start from these weights of the network instead of fresh ones.

        Layers that add nothing at first (``adds_nothing_at_first``) may be missing: they stay fresh.

        Raises:
            RuntimeError: a weight is missing, unknown, or of another shape.
        """
        neutral = [n for n, m in self.network.named_modules() if getattr(m, "adds_nothing_at_first", False)]
        for network in (self.network, self.ema.network):
            missing, unknown = network.load_state_dict(self._shards(weights), strict=False)
            missing = [name for name in missing if not any(name.startswith(f"{layer}.") for layer in neutral)]
            if missing or unknown:
                raise RuntimeError(f"missing {missing}, unexpected {unknown}")

    @property
    def progress(self) -> float:
        """The done share of the run, by steps or by minutes, whichever is further."""
        shares = [self.step / self.config.max_steps if self.config.max_steps else 1.0]
        if self.config.max_minutes is not None:
            shares.append(self.seconds / (60 * self.config.max_minutes))
        return min(1.0, max(shares))

    def steps(self) -> Iterator[StepReport]:
        """Train to the end of the run, yielding after each optimiser step.

        Time is counted between yields only: what the caller does with a report is not training. A step whose loss or
        gradient is not finite is not taken: its report says why, and its batch is passed over.

        Raises:
            UserError: after ``max_skipped`` such steps in a row, or where memory does not suffice.
        """
        batches = self.batches.stream(self.step, self.config.num_workers)
        with contextlib.closing(batches):
            while self.progress < 1:
                began = time.perf_counter()
                report = self._take(next(batches))
                self.seconds += time.perf_counter() - began
                if self.config.max_minutes is not None:  # else clocks that differ would part the processes
                    self.seconds = self.world.all_max(self.seconds)
                yield replace(report, seconds=self.seconds)
                if self.skipped_in_a_row >= self.config.max_skipped:
                    raise too_many_skipped(report.step, report.skipped, self.config)

    def learning_rate(self) -> float:
        """The rate of the coming step: linear warm-up, then cosine to zero or constant."""
        config = self.config
        rate = config.lr * min(1.0, (self.step + 1) / max(1, config.warmup_steps))
        gone = self.objective.rounds.lr_progress(self.progress)
        return rate * (1 + math.cos(math.pi * gone)) / 2 if config.lr_schedule == "cosine" else rate

    def validation_loss(self, averaged: Model, split: Split, limit: int = 512) -> float:
        """Mean loss of the ``averaged()`` weights on a split, with the same noise and times at every call."""
        n = min(limit, len(split))
        total = 0.0
        with torch.no_grad():
            for k, first in enumerate(range(0, n, self.config.batch_size)):
                rows = slice(first, min(first + self.config.batch_size, n))
                generator = training_generator(self.device, self.config.seed, k, 0, Purpose.VALIDATE)
                labels = None if split.labels is None else split.labels[rows]
                total += float(self._losses(averaged, split.values[rows], labels, generator, 1.0).value.sum())
        return total / n

    def state(self) -> dict[str, Any]:
        """Everything a run needs to go on, in tensors and plain numbers; all processes ask, the first one is told."""
        gather = self.parallel.gather
        return {
            "step": self.step,
            "seconds": self.seconds,
            "averaged_since": self.averaged_since,
            "skipped_in_a_row": self.skipped_in_a_row,
            "network": gather(self.network.state_dict()),
            "ema": gather(self.ema.network.state_dict()),
            "objective": self.learned.state_dict(),
            "optimizer": gather(self.optimizer.state_dict()) if self.optimizer else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.averaged_since = state.get("averaged_since", 0)
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)
        self.network.load_state_dict(self._shards(state["network"]))
        self.ema.network.load_state_dict(self._shards(state["ema"]))
        self.learned.load_state_dict(state.get("objective", {}), strict="objective" in state)
        if self.optimizer:
            moved = [p for group in self.optimizer.param_groups for p in group["params"]]
            slots = {
                i: {key: self.parallel.shard(value, moved[i]) for key, value in slot.items()}
                for i, slot in state["optimizer"]["state"].items()
            }
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})

    def _shards(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        own = self.network.state_dict()
        return {name: self.parallel.shard(value, own.get(name)) for name, value in weights.items()}

    def _take(self, batch: Batch) -> StepReport:
        """One optimiser step, or none where the loss or the gradient is not finite."""
        measurements = self.objective.rounds.start_if_due(replace(self.denoiser, network=self.network), self.progress)
        if measurements is not None:
            self.ema.restart(self.network)
            self.averaged_since = self.step
        self.network.train()
        rate = self.learning_rate()
        batch = self.augmentation(batch.to(self.device), self.config.seed, self.step)
        losses = self._forward_and_back(batch, self.denoiser)
        loss = torch.stack([part.value.mean() for part in losses]).mean()
        self.world.all_mean([loss, *(p.grad for p in self.learned.parameters() if p.grad is not None)])
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        grad_norm = self.parallel.norm(gradients) if gradients else torch.zeros(())
        skipped = None
        if bool(torch.isfinite(loss) & torch.isfinite(grad_norm)):
            self._move(losses, rate, grad_norm)
        else:
            skipped = self._diagnose(batch, losses, grad_norm)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.optimizer:
            self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return StepReport(
            step=self.step, images=self.step * self.config.batch_size, loss=loss, grad_norm=grad_norm,
            learning_rate=rate, seconds=self.seconds, skipped=skipped, measurements=measurements or {},
        )  # fmt: skip

    def _move(self, losses: Sequence[Loss], rate: float, grad_norm: Tensor) -> None:
        """Take the step: weights, moving average, and what the objective notes."""
        if density_memory(self.objective.density_of_times()):
            shared = self.world.all_gather([part.to(torch.device("cpu")) for part in losses])
            losses = [part.to(self.device) for parts in zip(*shared, strict=True) for part in parts]
        for part in losses:
            self.objective.observe(part)
        if self.config.clip_grad is not None:
            self.parallel.clip(self.parameters, self.config.clip_grad, grad_norm)
        if self.optimizer:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.ema.update(self.step + 1 - self.averaged_since)

    def _diagnose(self, batch: Batch, losses: Sequence[Loss], grad_norm: Tensor) -> SkippedStep:
        plain = replace(self.denoiser, network=self.network)
        density = self.objective.density_of_times()
        indices = batch.indices.chunk(self.config.accumulate)
        mine = torch.cat([indices[k] for k in self.world.own_parts(range(self.config.accumulate))])
        modules = {"": self.network, "objective": self.learned}
        own = diagnose(
            plain, modules, losses, density, mine, grad_norm, lambda: self._forward_and_back(batch, plain)
        )  # fmt: skip
        return merge(self.world.all_gather(own))

    def _forward_and_back(self, batch: Batch, denoiser: Model) -> list[Loss]:
        """The losses of this process's parts of the batch; gradients add up. The same at every call.

        The draws of a part are a function of (seed, step, part): which process takes it makes no difference.

        Raises:
            UserError: the device has not enough memory.
        """
        parts, seed = self.config.accumulate, self.config.seed
        labels = [None] * parts if batch.labels is None else batch.labels.chunk(parts)
        values, mine = batch.values.chunk(parts), self.world.own_parts(range(parts))
        found = []
        try:
            for k in mine:
                generator = training_generator(self.device, seed, self.step, k, Purpose.TRAIN)
                waits = self.parallel.no_sync() if k != mine[-1] else contextlib.nullcontext()
                rounded = tf32(self.config.precision == "tf32")
                with seeded(self.device, seed, self.step, k, Purpose.DROPOUT), waits, rounded:
                    losses = self._losses(denoiser, values[k], labels[k], generator, self.progress)
                    loss = losses.value.mean() / len(mine)  # the mean over the processes is formed on the way back
                    if loss.requires_grad:
                        loss.backward()
                found.append(Loss(value=losses.value.detach(), error=losses.error.detach(), u=losses.u))
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):  # the latter of the CPU
                raise out_of_memory(self.config, self.device) from None
            if "finished reduction" in str(error):
                raise unused_parameter() from None
            raise self.world.lost(error) or compile_failed(error) or error from None
        return found

    def _losses(
        self,
        denoiser: Model,
        values: Tensor,
        labels: Tensor | None,
        generator: torch.Generator,
        progress: float,
    ) -> Loss:
        """Losses of a batch in the split's own numbers."""
        data = values.to(self.device)
        if denoiser.spec.levels is not None:
            data = self.dequantization.training(data, denoiser.spec.levels, generator)
        if denoiser.spec.num_classes == 0:
            labels = None
        given = denoiser.with_labels(None if labels is None else labels.to(self.device))
        with products(self.config.precision, self.device):
            return self.objective.loss(given, data, generator, progress)
