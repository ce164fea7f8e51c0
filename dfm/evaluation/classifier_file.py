"""A trained classifier on disk: its weights, and beside them what it is and their hash."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

log = logging.getLogger("dfm")


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The weights by name, in main memory."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """sha256 of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def pack(network: nn.Module, facts: dict[str, Any]) -> bytes:
    """A safetensors file of the weights, with ``facts`` (whose ``sha256`` is theirs) as JSON in its metadata."""
    return save(weights_of(network), metadata={"facts": json.dumps(facts)})


def read(path: Path, network: nn.Module) -> dict[str, Any] | None:
    """Load what ``packed`` wrote into a network and return the facts; None if it is not there, or damaged.

    The format has no checksum of its own, so the hash of the weights is compared with the one beside them.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
        if digest_of(weights) != facts["sha256"]:
            raise ValueError("the weights are not those of its hash")
        network.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as problem:
        log.warning(f"{path} is not a whole classifier ({' '.join(str(problem).split())[:80]}); it is trained again")
        return None
    return dict(facts)
