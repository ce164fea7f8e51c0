"""dfm: train, sample and score diffusion and flow-matching models.

From Python: ``dfm.load(ckpt)`` gives a Denoiser, ``dfm.sample(denoiser, n)`` draws from it and
``dfm.log_likelihood(denoiser, data)`` scores data under it; ``dfm.encode(denoiser, data)`` and
``dfm.decode(denoiser, latents)`` go between data and latents. They are imported on first use, so that the command
line's help and completion never pay for torch.
"""

import importlib
from typing import Any

__version__ = "0.2.0"
__all__ = ["decode", "encode", "load", "log_likelihood", "sample"]

HOMES = {
    "load": "dfm.runs.loading",
    "sample": "dfm.sampling.draw",
    "log_likelihood": "dfm.likelihood.scoring",
    "encode": "dfm.sampling.ode_flow",
    "decode": "dfm.sampling.ode_flow",
}


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'dfm' has no attribute '{name}'")
