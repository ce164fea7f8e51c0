"""Reports on failed steps: the examples, noise levels and layer whose numbers are not finite, or why a pass failed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dfm.basics.errors import ProcessError, UserError, is_out_of_memory
from dfm.basics.processes import World
from dfm.training.objectives.base import Loss, Model
from dfm.training.trainer_config import TrainerConfig


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A step that was not taken.

    Args:
        loss, grad_norm: of the batch; one of them is not finite.
        indices: the examples whose own loss is not finite; all examples if only the gradient is not finite.
        log_nsr: their noise levels, if the objective has a density of times.
        layer: the first layer whose output is not finite. If all outputs are finite, the layer nearest to the output
            whose gradient is not finite; "the loss" if there is none.
    """

    loss: float
    grad_norm: float
    indices: Sequence[int]
    log_nsr: Sequence[float] | None
    layer: str

    def __str__(self) -> str:
        noise_levels = ""
        if self.log_nsr:
            noise_levels = f", log nsr {min(self.log_nsr):.2f} to {max(self.log_nsr):.2f}"
        shown = ", ".join(map(str, self.indices[:5])) + (", ..." if len(self.indices) > 5 else "")
        return (
            f"loss {self.loss:g}, gradient norm {self.grad_norm:g}; "
            f"{len(self.indices)} examples ({shown}){noise_levels}; "
            f"first bad layer: {self.layer}"
        )


def diagnose(
    model: Model,
    modules: Mapping[str, nn.Module],
    losses: Sequence[Loss],
    density: object,
    indices: Tensor,
    grad_norm: Tensor,
    again: Callable[[], object],
) -> SkippedStep:
    """Diagnose a bad step, before its gradients are dropped.

    Args:
        modules: the trained modules, by the prefix of their names; the network first.
        losses: of the passes of the batch, in the order of ``indices`` (B,).
        density: of the times, or None.
        again: repeats the forward passes with the same random numbers.
    """
    values = torch.cat([loss.value.detach().float() for loss in losses])
    u = torch.cat([loss.u for loss in losses])
    bad = ~values.isfinite()
    rows = (bad if bool(bad.any()) else ~bad).nonzero().flatten()
    noise_levels = None
    if density is not None:
        noise_levels = model.trained_schedule.log_nsr(density.time(u[rows], model.trained_schedule)).tolist()  # type: ignore[attr-defined]
    bad_gradient = first_bad_gradient(modules)  # before the passes are repeated
    layer = first_bad_output(modules, again) or bad_gradient or "the loss"
    return SkippedStep(
        loss=float(values.mean()),
        grad_norm=float(grad_norm),
        indices=indices[rows.cpu()].tolist(),
        log_nsr=noise_levels,
        layer=layer,
    )


def merge(parts: Sequence[SkippedStep]) -> SkippedStep:
    """Merge the reports of several processes on a bad step: those with a loss that is not finite, if there are any."""
    bad = [part for part in parts if not math.isfinite(part.loss)] or list(parts)
    noise_levels = [log_nsr for part in bad for log_nsr in part.log_nsr or ()]
    return SkippedStep(
        loss=sum(part.loss for part in parts) / len(parts),
        grad_norm=parts[0].grad_norm,
        indices=[index for part in bad for index in part.indices],
        log_nsr=noise_levels or None,
        layer=bad[0].layer,
    )


def first_bad_output(modules: Mapping[str, nn.Module], again: Callable[[], object]) -> str | None:
    """Return the name of the first module with a non-finite output when ``again`` runs, or None."""
    names: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not names and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                names.append(name or type(module).__name__)

        return hook

    handles = [
        module.register_forward_hook(watch(f"{start}.{name}".strip(".")))
        for start, whole in modules.items()
        for name, module in whole.named_modules()
    ]
    try:
        with torch.no_grad():
            again()
    finally:
        for handle in handles:
            handle.remove()
    return names[0] if names else None


def first_bad_gradient(modules: Mapping[str, nn.Module]) -> str | None:
    """Return the name of the parameter nearest to the output whose gradient is not finite, or None."""
    bad = [
        f"{start}.{name}".strip(".")
        for start, whole in reversed(list(modules.items()))
        for name, p in whole.named_parameters()
        if p.grad is not None and not bool(p.grad.isfinite().all())
    ]
    return bad[-1] if bad else None


class GivenUpError(UserError):
    """Too many steps in a row were skipped; all processes raise it at the same step.

    Attributes:
        reason: the message without its suggestion.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


def too_many_skipped(step: int, skipped: SkippedStep | None, config: TrainerConfig) -> GivenUpError:
    """Return the error of a run that stops after too many skipped steps in a row."""
    return GivenUpError(
        f"step {step}: {skipped}; {config.max_skipped} steps in a row were not taken, and the weights are those "
        "from before",
        f"try a smaller trainer.lr (now {config.lr:g}), a smaller trainer.clip_grad or trainer.precision=fp32",
    )


def explain_failure(error: RuntimeError, config: TrainerConfig, device: torch.device, world: World) -> Exception:
    """Return the error to raise after a failed forward or backward pass, in plain words if we know its kind."""
    if is_out_of_memory(error):
        return out_of_memory(config, device)
    if "finished reduction" in str(error):
        return unused_parameter()
    return world.lost(error) or compile_failed(error) or error


def unused_parameter() -> UserError:
    """Return the error for DDP, which waits for the gradient of a parameter that never gets one."""
    return UserError(
        "a parameter of the network has no effect on the loss, which trainer.parallel=ddp does not allow; "
        "try trainer.parallel=fsdp, or a network without it"
    )


def compile_failed(error: RuntimeError) -> UserError | None:
    """Return the error of a failed ``torch.compile``; None for an error of another kind."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    words = " ".join(str(error).partition("Set TORCH")[0].split())  # without torch's advice to developers
    return UserError(f"trainer.compile=true: torch.compile failed ({words[:300]}); try trainer.compile=false")


def out_of_memory(config: TrainerConfig, device: torch.device) -> ProcessError:
    """Return the error of a run whose batch does not fit."""
    size, parts = config.batch_size, config.accumulate
    tries = ["a smaller trainer.batch_size"]
    if config.precision != "bf16":
        tries.insert(0, "trainer.precision=bf16")
    if size % (2 * parts) == 0:
        tries.insert(0, f"trainer.accumulate={2 * parts}")
    if not config.activation_checkpointing:
        tries.append("trainer.activation_checkpointing=true")
    batch = f"trainer.batch_size={size} in {parts} parts"
    return ProcessError(f"out of memory on {device} with {batch}; try {', or '.join(tries)}")
