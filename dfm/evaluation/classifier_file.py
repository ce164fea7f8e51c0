"""The file of a trained classifier: its weights, their hash and a description."""

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
    """Return the weights by name, in main memory."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def pack(network: nn.Module, facts: dict[str, Any]) -> bytes:
    """Return a safetensors file of the weights, with ``facts`` as JSON in its metadata.

    ``facts["sha256"]`` is the hash of the weights.
    """
    return save(weights_of(network), metadata={"facts": json.dumps(facts)})


def read(file: Path, network: nn.Module) -> dict[str, Any] | None:
    """Read a file of ``pack`` into a network and return its facts; None if there is no file or it is damaged.

    The format has no checksum, so the hash of the weights is compared with the hash in the facts.
    """
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as content:
            facts = json.loads(content.metadata()["facts"])
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118, no mapping
        if digest_of(weights) != facts["sha256"]:
            raise ValueError("the weights do not have the hash of the file")
        network.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as problem:
        log.warning(f"{file} is not a whole classifier ({' '.join(str(problem).split())[:80]}); it is trained again")
        return None
    return dict(facts)
