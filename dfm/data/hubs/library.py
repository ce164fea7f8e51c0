"""Hugging Face's library ``datasets``, which is installed with ``pip install 'dfm[hf]'``."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dfm.basics.errors import UserError

NEWEST_WITH_SCRIPTS = 3  # later versions of the library run no code of a data set


def library() -> Any:
    """Return the module ``datasets``.

    Raises:
        UserError: it is not installed, or so old that it would run code of a data set.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("dataset hf: the library 'datasets' is not installed; try pip install 'dfm[hf]'") from None
    if int(datasets.__version__.partition(".")[0]) <= NEWEST_WITH_SCRIPTS:
        raise UserError(
            f"dataset hf: datasets {datasets.__version__} may run code of a data set; allowed: 4 or newer; try "
            "pip install 'dfm[hf]'"
        )
    return datasets


@contextmanager
def quiet(offline: bool) -> Iterator[None]:
    """Let the library print nothing and, with ``offline``, ask no server, inside this block."""
    datasets = library()
    bars, before = datasets.are_progress_bars_disabled(), datasets.config.HF_HUB_OFFLINE
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
