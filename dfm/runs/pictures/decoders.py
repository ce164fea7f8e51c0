"""Decoders: from latents that a model draws to pictures, for the eye only (config group ``decoder``)."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText, located

if TYPE_CHECKING:  # help and completion import this room, and need no torch
    import torch
    from torch import Tensor, nn

    from dfm.data.spec import DatasetSpec

FACTOR = 3.0  # by which the deviation of the data may differ from what the decoder is made for
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Decoder(ABC):
    """A map from stored samples to pictures."""

    @abstractmethod
    def check(self, spec: "DatasetSpec") -> None:
        """Refuse data of another form or scale, before anything is drawn.

        Raises:
            UserError: the data do not fit, or the decoder is not there.
        """

    @abstractmethod
    def pictures(self, samples: "Tensor", device: "torch.device") -> "Tensor":
        """Return pictures uint8 (n, 1 or 3, H, W) of stored samples (n, C, h, w)."""

    def on(self, device: "torch.device") -> "Callable[[Tensor], Tensor] | None":
        """Return ``pictures`` on a device; None if samples are drawn as what they are."""
        return partial(self.pictures, device=device)

    def drawn(self, samples: "Tensor", spec: "DatasetSpec", device: "torch.device") -> "tuple[Tensor, DatasetSpec]":
        """Return what is drawn of stored samples, and its form: pictures of 8 bits."""
        from dfm.data.spec import DatasetSpec

        pictures = self.pictures(samples, device)
        shape = tuple(pictures.shape[1:])
        return pictures, DatasetSpec(name=spec.name, shape=shape, levels=256, num_classes=0, mean=0.0, std=1.0)


class NoDecoder(Decoder):
    """No decoder: samples are what they are."""

    def check(self, spec: "DatasetSpec") -> None: ...

    def pictures(self, samples: "Tensor", device: "torch.device") -> "Tensor":
        return samples

    def on(self, device: "torch.device") -> None:
        return None

    def drawn(self, samples: "Tensor", spec: "DatasetSpec", device: "torch.device") -> "tuple[Tensor, DatasetSpec]":
        return samples, spec


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoencoderKL(Decoder):
    """The decoder of a variational autoencoder in the format of diffusers (Rombach et al. 2022).

    With latents z of the encoder, s its ``scaling_factor`` and m its ``shift_factor`` (0 if it has none), data are
    either z itself (``raw``) or s (z - m) (``scaled``), which has a deviation of about 1. The picture is decoder(z) in
    [-1, 1], spread over 0 .. 255.

    Args:
        path: a local folder with ``config.json`` and safetensors weights, or with a folder ``vae`` that has them.
        latents: raw or scaled.
        scaling_factor: s; None: that of ``config.json``.
        batch_size: pictures at a time.

    Raises:
        UserError: an argument has another value, or the folder has no such decoder.
    """

    path: PathText | None = None
    latents: Literal["raw", "scaled"] = "raw"
    scaling_factor: float | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.path is None:
            raise UserError("decoder: no path; give decoder.path=DIR, the folder of an AutoencoderKL")
        if self.batch_size < 1:
            raise UserError(f"decoder.batch_size={self.batch_size}; allowed: at least 1")
        if self._scale <= 0 or not math.isfinite(self._scale):
            raise UserError(f"decoder.scaling_factor={self._scale:g}; allowed: a finite number above 0")

    @cached_property
    def _folder(self) -> Path:
        path = located(self.path or "")
        return path / "vae" if (path / "vae" / "config.json").is_file() else path

    @cached_property
    def _facts(self) -> Mapping[str, Any]:
        """The decoder's own numbers, from ``config.json``."""
        try:
            facts = json.loads((self._folder / "config.json").read_text("utf-8"))
        except (OSError, ValueError):
            facts = None
        kind = facts.get("_class_name") if isinstance(facts, dict) else None
        if not isinstance(facts, dict) or kind != "AutoencoderKL":
            raise UserError(
                f"decoder.path={self.path}: {f'a {kind}' if kind else 'no config.json of a model'}; allowed: the local "
                "folder of an AutoencoderKL of diffusers"
            )
        return facts

    @property
    def _scale(self) -> float:
        return float(self._facts.get("scaling_factor", 0.18215) if self.scaling_factor is None else self.scaling_factor)

    def check(self, spec: "DatasetSpec") -> None:
        channels = self._facts.get("latent_channels", 4)
        if len(spec.shape) != 3 or spec.shape[0] != channels or spec.levels is not None:
            kind = "real numbers" if spec.levels is None else f"{spec.levels} levels"
            raise UserError(
                f"decoder: dataset {spec.name} has {kind} of shape {spec.shape}; allowed for {self.path}: latents, "
                f"real numbers of shape ({channels}, H, W); try decoder=none"
            )
        found = deviation(spec)
        expected = {"raw": 1 / self._scale, "scaled": 1.0}
        fitting = [name for name, one in expected.items() if 1 / FACTOR <= found / one <= FACTOR]
        if self.latents not in fitting:
            way = f"decoder.latents={fitting[0]}" if fitting else "decoder=none"
            raise UserError(
                f"decoder: the data deviate by {found:.3g}, and {self.latents} latents of {self.path} by about "
                f"{expected[self.latents]:.3g} (scaling factor {self._scale:g}); allowed: within a factor of "
                f"{FACTOR:g}; try {way}"
            )
        _ = self.network

    @cached_property
    def network(self) -> "nn.Module":
        """The autoencoder on the CPU. Only safetensors are read: other weights could hold code."""
        try:
            from diffusers import AutoencoderKL as Autoencoder
        except ImportError:
            raise UserError("decoder: diffusers is not installed; try pip install 'dfm[latents]'") from None
        try:
            network: nn.Module = Autoencoder.from_pretrained(
                str(self._folder), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except Exception as problem:  # the library raises nearly anything
            reason = " ".join(str(problem).split())[:200]
            raise UserError(
                f"decoder.path={self.path}: cannot be read ({reason}); allowed: config.json and {WEIGHTS}"
            ) from None
        return network.float().eval().requires_grad_(False)

    def pictures(self, samples: "Tensor", device: "torch.device") -> "Tensor":
        import torch

        network: Any = self.network.to(device)
        shift = float(self._facts.get("shift_factor") or 0.0)
        parts = []
        with torch.inference_mode():
            for piece in samples.float().split(self.batch_size):
                z = piece.to(device)
                z = z if self.latents == "raw" else z / self._scale + shift
                picture = network.decode(z).sample
                parts.append(((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu())
        return torch.cat(parts)


def deviation(spec: "DatasetSpec") -> float:
    """Return the deviation of real data in the user's unit: the root of the mean variance of a channel."""
    scale = spec.scale or (1.0,)
    return spec.std * math.sqrt(math.fsum(one**2 for one in scale) / len(scale))
