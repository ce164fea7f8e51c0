"""The numbers of a training run."""

from dataclasses import dataclass
from typing import Literal

from dfm.basics.devices import Precision
from dfm.basics.errors import UserError
from dfm.basics.seeding import check_seed


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The numbers of a training run (config group ``trainer``).

    Args:
        max_steps: number of optimiser steps.
        max_minutes: stop earlier, after this many minutes of training (null: never).
        batch_size: number of examples in an optimiser step.
        accumulate: number of parts of a batch; one process takes them one after the other, the processes of torchrun
            share them.
        optimizer: ``adamw``, or ``muon``: orthogonalised steps for matrices and filters, AdamW for the rest (see
            ``dfm.training.optimizers``; not with fsdp).
        lr: the highest rate, reached after ``warmup_steps``.
        lr_schedule: the rate after that: ``cosine`` to zero, or ``constant``.
        rate_on_resume: the rate of a resumed run whose length has changed. ``rewarm``: that of a run of the new length,
            at once, so it may jump. ``keep``: it goes on from the last rate, without a jump, to the new end.
        weight_decay, betas: of the optimiser.
        clip_grad: bound of the gradient's norm (null: none).
        max_skipped: the run stops after this many steps in a row that were skipped, since the loss or the gradient was
            not finite.
        ema_decay: of the averaged weights.
        checkpoint_every, sample_every, validate_every, log_every: in steps; 0 for never, and ``log_every`` at least 1
            (the last step always has a checkpoint).
        keep_checkpoints: number of newest checkpoints to keep; the one with the lowest validation loss is kept as well.
        seed: of all random numbers of the run.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        precision: of convolutions and matrix products: ``fp32``, ``tf32`` (on GPUs that have it) or ``bf16``
            (autocast). Weights and their averages are float32.
        parallel: how several processes hold the network. ``ddp``: each has all of it. ``fsdp``: each has a share of
            every weight, for a network that does not fit one GPU with its gradients and averages.
        compile: torch.compile the network.
        channels_last: memory layout of convolutions (not with fsdp).
        activation_checkpointing: keep only the inputs of residual blocks for the backward pass, which computes the rest
            again: less memory, a third more products.
        num_workers: number of threads that prepare batches ahead.

    Raises:
        UserError: a number is out of range, or batch_size is no multiple of accumulate.
    """

    max_steps: int
    max_minutes: float | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
    rate_on_resume: Literal["rewarm", "keep"] = "rewarm"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip_grad: float | None = 1.0
    max_skipped: int = 5
    ema_decay: float = 0.999
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    sample_every: int = 1000
    validate_every: int = 500
    log_every: int = 50
    seed: int = 0
    device: str = "auto"
    precision: Precision = "fp32"
    parallel: Literal["ddp", "fsdp"] = "ddp"
    compile: bool = False
    channels_last: bool = True
    activation_checkpointing: bool = False
    num_workers: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        from_one = ("batch_size", "accumulate", "keep_checkpoints", "log_every", "max_skipped")
        from_zero = ("max_steps", "warmup_steps", "weight_decay", "lr", "num_workers")
        intervals = ("checkpoint_every", "sample_every", "validate_every")
        for name in (*from_zero, *intervals, *from_one):
            least = 1 if name in from_one else 0
            if not getattr(self, name) >= least:
                raise UserError(f"trainer.{name}={getattr(self, name)}; allowed: at least {least}")
        for name in ("max_minutes", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"trainer.{name}={value}; allowed: above 0, or null for none")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(
                f"trainer.betas={list(self.betas)}; allowed: from 0 to below 1; try trainer.betas=[0.9,0.99]"
            )
        if self.batch_size % self.accumulate:
            raise UserError(
                f"trainer.batch_size={self.batch_size} is not divisible by trainer.accumulate={self.accumulate}; "
                f"allowed: multiples of {self.accumulate}"
            )
