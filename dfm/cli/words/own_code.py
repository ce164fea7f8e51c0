"""``trust=``: the packages of the user whose classes a configuration may name. Only the command line can name them."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig

from dfm.basics.errors import UserError

TRUST = "trust"


def key_of(word: str) -> str:
    """Return the key or group that an override names."""
    return word.partition("=")[0].lstrip("+~")


def with_list_of_packages(word: str) -> str:
    """Return the word; for ``trust=a,b``, which Hydra takes for a sweep, ``trust=[a,b]``."""
    start, _, value = word.partition("=")
    return f"{start}=[{value}]" if key_of(word) == TRUST and "," in value and value[0] not in "[\"'" else word


def rewritten(words: Sequence[str]) -> list[str]:
    """Return the words of a command line in a form that Hydra takes, where it would refuse what is meant.

    Beside ``ckpt=``, keys of the data set are those of the checkpoint's, which Hydra does not know: ``dataset.path=``
    becomes ``++dataset.path=``.
    """
    of_checkpoint = any(key_of(word) == "ckpt" for word in words)
    start = ("dataset.", "prior.dataset.")
    words = [f"++{word}" if of_checkpoint and word.startswith(start) and "=" in word else word for word in words]
    return [with_list_of_packages(word) for word in words]


def trusted(config: Mapping[str, Any], overrides: Sequence[str]) -> Sequence[str]:
    """Return the packages whose classes a configuration may name: dfm, and those that the command line trusts.

    Args:
        config: the composed configuration.
        overrides: those of the command line.

    Raises:
        UserError: a YAML file sets ``trust``. Anyone may have written it, so it cannot allow code to run.
    """
    value = config.get(TRUST) or []
    packages = [name.strip() for name in (value.split(",") if isinstance(value, str) else map(str, value))]
    if packages and TRUST not in map(key_of, overrides):
        names = ",".join(packages)
        raise UserError(f"trust: {names} in a YAML file; allowed: on the command line only; try trust={names}")
    return ("dfm", *packages)


def find_own_code(packages: Sequence[str]) -> None:
    """Let Python find packages in the directory where the command was typed, after all other places.

    Args:
        packages: the trusted ones. With dfm alone nothing changes.
    """
    directory = HydraConfig.get().runtime.cwd  # a job may have another working directory
    if len(packages) > 1 and directory not in sys.path:
        sys.path.append(directory)
