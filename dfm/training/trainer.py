"""Training: one generator that takes an optimiser step at a time and yields what happened.

Batch k, its noise, its times and its dequantisation are functions of (seed, k, part), whichever process takes the part.
So the number of the step, the weights, their average and the optimiser's state are the whole state of a run.
"""

import contextlib
import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from dfm.basics.devices import check_precision, laid_out, products, recompute, tf32
from dfm.basics.processes import World
from dfm.basics.seeding import STREAMS, Purpose, seeded, training_generator
from dfm.data.dataset import Split
from dfm.data.numbers.dequantization import Dequantization, UniformDequantization
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.models.condition import Condition
from dfm.training.batches import Augmentation, Batch, Batches
from dfm.training.ema import Ema
from dfm.training.learning_rate import LearningRate
from dfm.training.objectives.base import Loss, Model, Objective
from dfm.training.optimizers import optimizer
from dfm.training.parallel.strategy import check_parallel, hold_network
from dfm.training.step_failures import SkippedStep, diagnose, explain_failure, merge, too_many_skipped
from dfm.training.step_report import StepReport
from dfm.training.trainer_config import TrainerConfig
from dfm.training.warps import NoWarp, Warp, check_warp


class Trainer:
    """The training of a denoiser's network on a split by an objective, one optimiser step at a time.

    Args:
        denoiser: or a noisy classifier; its network is moved to ``device`` and trained in place.
        flip: whether images are mirrored left to right with probability 1/2.
        warp: a random change of pictures of which the network is told; it must be made for ``warp.numbers``.
        dequantization: how integer pixel levels become real numbers.
        label_dropout: the probability that an example's class is hidden (Ho and Salimans 2022).
        world: the processes that share the ``accumulate`` parts of each batch. Their number changes a step only by the
            order in which floats are added.

    Raises:
        UserError: as ``Augmentation``, ``Batches`` and ``check_warp``; or the device lacks the precision, or the
            processes cannot share the parts.
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
        warp: Warp | None = None,
        world: World | None = None,
    ) -> None:
        self.config, self.objective, self.device, self.world = config, objective, device, world or World()
        check_precision(config.precision, device)
        check_parallel(config, objective.shardable, self.world)
        self.dequantization = dequantization or UniformDequantization()
        warp, classes = warp or NoWarp(), denoiser.spec.num_classes
        check_warp(warp, denoiser, objective)
        self.augmentation = Augmentation(flip=flip, label_dropout=label_dropout, num_classes=classes, warp=warp)
        self.network = laid_out(denoiser.module().to(device), config.channels_last)
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
        # None for an oracle, whose loss is the smallest that the objective can reach.
        self.optimizer = optimizer(config, self.network, self.learned)
        self.step, self.seconds = 0, 0.0
        self.averaged_since, self.skipped_in_a_row = 0, 0
        self.rate = LearningRate(config)
        self.streams = STREAMS

    def averaged(self, everywhere: bool = True) -> Any:
        """Return the denoiser (or classifier) with the averaged weights, from which samples and scores come.

        All processes ask together, since each may hold a share of the weights.

        Args:
            everywhere: whether every process uses it, or only the first.
        """
        return replace(self.denoiser, network=self.parallel.gathered_copy(self.ema.network, everywhere))

    def start_from(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Start from these weights of the network instead of fresh ones; return the names of those that stay fresh.

        Only layers that add nothing at first (``adds_nothing_at_first``) may be missing.

        Raises:
            RuntimeError: a weight is missing, unknown, or of another shape.
        """
        neutral = [n for n, m in self.network.named_modules() if getattr(m, "adds_nothing_at_first", False)]
        for network in (self.network, self.ema.network):
            missing, unknown = network.load_state_dict(self._shards(weights), strict=False)
            needed = [name for name in missing if not any(name.startswith(f"{layer}.") for layer in neutral)]
            if needed or unknown:
                raise RuntimeError(f"missing {needed}, unexpected {unknown}")
        return missing

    @property
    def progress(self) -> float:
        """The share of the run that is done, by steps or by minutes, whichever is larger."""
        shares = [self.step / self.config.max_steps if self.config.max_steps else 1.0]
        if self.config.max_minutes is not None:
            shares.append(self.seconds / (60 * self.config.max_minutes))
        return min(1.0, max(shares))

    def steps(self) -> Iterator[StepReport]:
        """Train to the end of the run and yield a report after each optimiser step.

        Only the time of the steps counts, not the time that the caller spends on a report. A step whose loss or
        gradient is not finite is not taken: its report says why, and training goes on with the next batch.

        Raises:
            UserError: ``max_skipped`` such steps came in a row, or there is too little memory.
        """
        batches = self.batches.stream(self.step, self.config.num_workers)
        with contextlib.closing(batches):
            while self.progress < 1:
                start = time.perf_counter()
                report = self._take(next(batches))
                self.seconds += time.perf_counter() - start
                if self.config.max_minutes is not None:  # processes whose clocks differ must agree
                    self.seconds = self.world.all_max(self.seconds)
                yield replace(report, seconds=self.seconds)
                if self.skipped_in_a_row >= self.config.max_skipped:
                    raise too_many_skipped(report.step, report.skipped, self.config)

    def learning_rate(self) -> float:
        """Return the rate of the coming step: linear warm-up, then cosine to zero or constant."""
        return self.rate.at(self.step, self.objective.rounds.lr_progress(self.progress))

    def validation_loss(self, averaged: Model, split: Split, limit: int = 512) -> float:
        """Return the mean loss of the ``averaged()`` weights on a split; every call has the same noise and times."""
        n = min(limit, len(split))
        total = 0.0
        with torch.no_grad():
            for k, first in enumerate(range(0, n, self.config.batch_size)):
                rows = slice(first, min(first + self.config.batch_size, n))
                generator = training_generator(self.device, self.config.seed, k, 0, Purpose.VALIDATE, self.streams)
                batch = Batch(split.take(rows), split.labels_of(rows), torch.arange(rows.start, rows.stop))
                total += float(self._losses(averaged, batch, generator, 1.0).value.sum())
        return total / n

    def state(self) -> dict[str, Any]:
        """Return the state from which a run can go on, as tensors and numbers.

        Call it on every process; only the first receives the tensors.
        """
        gather = self.parallel.gather
        return {
            "step": self.step,
            "seconds": self.seconds,
            "averaged_since": self.averaged_since,
            "skipped_in_a_row": self.skipped_in_a_row,
            "rate": self.rate.state(),
            "streams": self.streams,
            "network": gather(self.network.state_dict()),
            "ema": gather(self.ema.network.state_dict()),
            "objective": self.learned.state_dict(),
            "optimizer": gather(self.optimizer.state_dict()) if self.optimizer else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the result of ``state()``, to go on from it."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.averaged_since = state.get("averaged_since", 0)
        self.skipped_in_a_row = state.get("skipped_in_a_row", 0)
        self.rate.load_state(state.get("rate", {}))
        self.streams = state.get("streams", 1)  # a run of dfm 0.1 goes on with its own draws
        self.network.load_state_dict(self._shards(state["network"]))
        self.ema.network.load_state_dict(self._shards(state["ema"]))
        self.learned.load_state_dict(state.get("objective", {}), strict="objective" in state)
        if self.optimizer:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            slots = {
                i: {key: self.parallel.shard(value, parameters[i]) for key, value in slot.items()}
                for i, slot in state["optimizer"]["state"].items()
            }
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})

    def _shards(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        own = self.network.state_dict()
        return {name: self.parallel.shard(value, own.get(name)) for name, value in weights.items()}

    def _take(self, batch: Batch) -> StepReport:
        """Take one optimiser step, or none if the loss or the gradient is not finite."""
        measurements = self.objective.rounds.start_if_due(replace(self.denoiser, network=self.network), self.progress)
        if measurements is not None:
            self.ema.restart(self.network)
            self.averaged_since = self.step
        self.network.train()
        rate = self.rate.last = self.learning_rate()
        batch = self.augmentation(batch.to(self.device), self.config.seed, self.step, self.streams)
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
            step=self.step,
            images=self.step * self.config.batch_size,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=rate,
            seconds=self.seconds,
            skipped=skipped,
            measurements=measurements or {},
        )

    def _move(self, losses: Sequence[Loss], rate: float, grad_norm: Tensor) -> None:
        """Move the weights and their average, and show the losses to an objective that adapts."""
        if self.objective.adapts:
            shared = self.world.all_gather([part.to(torch.device("cpu")) for part in losses])
            losses = [part.to(self.device) for parts in zip(*shared, strict=True) for part in parts]
        self.objective.observe(Loss.joined(losses))
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
        numbers = torch.cat([indices[k] for k in self.world.own_parts(range(self.config.accumulate))])
        modules = {"": self.network, "objective": self.learned}
        report = diagnose(
            plain, modules, losses, density, numbers, grad_norm, lambda: self._forward_and_back(batch, plain)
        )
        return merge(self.world.all_gather(report))

    def _forward_and_back(self, batch: Batch, denoiser: Model) -> list[Loss]:
        """Return the losses of this process's parts of the batch; gradients add up. Every call does the same.

        The draws of a part are a function of (seed, step, part), whichever process takes it.

        Raises:
            UserError: the device has too little memory.
        """
        count, seed = self.config.accumulate, self.config.seed
        parts, own = batch.parts(count), self.world.own_parts(range(count))
        losses = []
        try:
            for k in own:
                generator = training_generator(self.device, seed, self.step, k, Purpose.TRAIN, self.streams)
                sync = contextlib.nullcontext() if k == own[-1] else self.parallel.no_sync()
                precision = tf32(self.config.precision == "tf32")
                dropout = seeded(self.device, seed, self.step, k, Purpose.DROPOUT, self.streams)
                with dropout, sync, precision:
                    part = self._losses(denoiser, parts[k], generator, self.progress)
                    loss = part.value.mean() / len(own)  # the backward pass takes the mean over the processes
                    if loss.requires_grad:
                        loss.backward()
                losses.append(part.detached())
        except RuntimeError as error:
            raise explain_failure(error, self.config, self.device, self.world) from None
        return losses

    def _losses(self, denoiser: Model, batch: Batch, generator: torch.Generator, progress: float) -> Loss:
        """Return the losses of a batch, whose values are as in the split."""
        batch = batch.to(self.device)
        data = self.dequantization.model_input(batch.values, denoiser.spec, generator)
        denoiser = denoiser.with_labels(batch.labels if denoiser.spec.num_classes else None)
        if batch.change is not None:
            data = self.augmentation.warped(data, batch)
            told = Condition(change=batch.change)
            denoiser = cast(NetworkDenoiser, denoiser).with_condition(told)  # by check_warp
        with products(self.config.precision, self.device):
            return self.objective.loss(denoiser, data, generator, progress)
