"""dfm: train, sample and score diffusion and flow-matching models.

From Python: ``dfm.load(ckpt)`` gives a Denoiser, ``dfm.sample(denoiser, n)`` draws from it and
``dfm.log_likelihood(denoiser, data)`` scores data under it; ``dfm.encode(denoiser, data)`` and
``dfm.decode(denoiser, latents)`` go between data and latents. They are imported on first use, so that the command
line's help and completion never pay for torch.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["decode", "encode", "load", "log_likelihood", "sample"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dfm import api

        return getattr(api, name)
    raise AttributeError(f"module 'dfm' has no attribute '{name}'")
