"""dfm: train, sample and score diffusion and flow-matching models.

In Python, ``dfm.load(ckpt)`` returns a Denoiser. ``dfm.sample(denoiser, n)`` draws samples from it, and
``dfm.log_likelihood(denoiser, data)`` scores data under it. ``dfm.encode(denoiser, data)`` maps data to latents, and
``dfm.decode(denoiser, latents)`` maps them back. Each function is imported when it is first used, so the help and the
completion of the command line never wait for torch.
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
    """Return a public function, imported from the room that it lives in."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'dfm' has no attribute '{name}'")
