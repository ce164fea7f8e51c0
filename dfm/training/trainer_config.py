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
        max_steps: optimiser steps. max_minutes: stop earlier, after this many minutes of training (null: never).
        batch_size: examples an optimiser step; ``accumulate`` splits it into that many parts,
            taken one after the other or shared by the processes of torchrun.
        optimizer: ``adamw``, or ``muon``: orthogonalised steps of matrices and filters, AdamW for the rest (see
            ``dfm.training.optimizers``; not with fsdp).
        lr: peak rate, reached after ``warmup_steps``, then ``cosine`` to zero or ``constant``.
        clip_grad: bound on the gradient's norm (null: none).
        max_skipped: steps in a row that may be skipped for a loss or gradient that is not finite; then the run stops.
        ema_decay: of the averaged weights. checkpoint_every, sample_every, validate_every, log_every: in steps, 0 for
            never (the last step is always kept); keep_checkpoints: the newest so many,
            and that of the lowest validation loss.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``. precision: of convolutions and matrix products: ``fp32``,
            ``tf32`` (on cards that have it) or ``bf16`` (autocast); weights and their averages are float32.
        parallel: how several processes hold the network: ``ddp``, each all of it, or ``fsdp``, each a share of every
            weight, for networks that do not fit one card with their gradients and averages.
        compile: torch.compile the network. channels_last: memory layout of
            convolutions (not with fsdp). activation_checkpointing: keep only the inputs of residual blocks for the
            backward pass, which computes the rest anew: less memory, a third more products.
        num_workers: threads that prepare batches ahead.

    Raises:
        UserError: a number out of range.
    """

    max_steps: int
    max_minutes: float | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
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
        one = ("batch_size", "accumulate", "keep_checkpoints", "log_every", "max_skipped")
        zero = (
            "checkpoint_every",
            "sample_every",
            "validate_every",
            "num_workers",
            "warmup_steps",
            "weight_decay",
            "lr",
        )
        for name, least in {"max_steps": 0, **dict.fromkeys(one, 1), **dict.fromkeys(zero, 0)}.items():
            if not getattr(self, name) >= least:
                raise UserError(f"trainer.{name}={getattr(self, name)}; allowed: at least {least}")
        for name in ("max_minutes", "clip_grad"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"trainer.{name}={value}; allowed: above 0, or null for none")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"trainer.betas={list(self.betas)}; allowed: from 0 to below 1; try [0.9,0.99]")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"trainer.batch_size={self.batch_size} is not divisible by trainer.accumulate={self.accumulate}"
            )
