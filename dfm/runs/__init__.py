"""A run: the parts that its configuration describes, and the files that it leaves on disk."""

from dfm.runs.loggers import Logger, NoLogger, TensorBoard
from dfm.runs.pictures.decoders import AutoencoderKL, Decoder, NoDecoder

__all__ = [
    "AutoencoderKL",
    "Decoder",
    "Logger",
    "NoDecoder",
    "NoLogger",
    "TensorBoard",
]
