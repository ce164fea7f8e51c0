"""Random numbers that depend on where they are used, never on how the work is divided.

The numbers of sample k depend on (seed, k, purpose, step) only. The numbers of a training step depend on (seed, step,
part, purpose) only: a batch is divided into parts, and it does not matter which process computes which part. Both come
from the counter-based generator Philox (Salmon et al. 2011). Its key and its counter are the arguments themselves, so
streams never overlap and a run can resume without any stored state of a generator.

Training draws its numbers from torch's generators, which are fast and which every objective takes. On the CPU that is a
Mersenne twister, and its seed keeps 32 bits: after 77,000 steps two of them would probably have had the same noise. So
Philox draws the whole state of the twister, 19,937 bits. On a GPU torch has Philox too, with a key of 64 bits.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError


class Purpose(IntEnum):
    """The use of a stream. The numbers are part of the meaning of a seed and never change."""

    START = 0
    STEP = 1
    DEQUANTIZE = 2
    PROBE = 3
    DATA_ORDER = 4
    TRAIN = 5
    FLIP = 6
    LABEL = 7
    VALIDATE = 8
    INITIAL_WEIGHTS = 9
    DROPOUT = 10
    LEVEL = 11
    HIDDEN_LABEL = 12
    RESAMPLE = 13
    PAIRS = 14
    POINTS = 15
    WARP = 16


# The version of the streams of training. A checkpoint keeps the one with which its run began. 1: that of dfm 0.1, where
# torch's own seeding kept 32 bits on the CPU.
STREAMS = 2
TWISTER = 624  # words of 32 bits in the state of a Mersenne twister


def stream(seed: int, index: int, purpose: Purpose, step: int = 0, part: int = 0) -> np.random.Generator:
    """Return the generator of item ``index``: Philox with key (seed, index) and counter (0, part, step, purpose)."""
    counter = np.array([0, part, step, int(purpose)], dtype=np.uint64)
    key = np.array([check_seed(seed), index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def check_seed(seed: int) -> int:
    """Return the seed.

    Raises:
        UserError: the seed is negative or does not fit in 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise UserError(f"seed={seed}; allowed: a whole number from 0 to 2^63 - 1")
    return seed


def streams(
    seed: int, indices: Iterable[int], purpose: Purpose, step: int = 0, part: int = 0
) -> Iterator[np.random.Generator]:
    """Yield the ``stream`` of each index. It is one generator that is reset, so draw from it before you take the next.

    This is five times as fast as a new generator for each index, which costs more than the few numbers of a point or a
    small image.
    """
    generator = stream(seed, 0, purpose, step, part)
    fresh = generator.bit_generator.state
    key = fresh["state"]["key"]
    for index in indices:
        key[1] = index
        generator.bit_generator.state = fresh
        yield generator


def normal(
    seed: int, indices: Sequence[int], shape: tuple[int, ...], purpose: Purpose, step: int = 0, part: int = 0
) -> Tensor:
    """Draw standard normals, float64 (len(indices), *shape).

    Row i depends on (seed, indices[i], purpose, step, part) only.
    """
    return _rows([own.standard_normal(shape) for own in streams(seed, indices, purpose, step, part)], shape)


def uniform(seed: int, indices: Sequence[int], shape: tuple[int, ...], purpose: Purpose, step: int = 0) -> Tensor:
    """Draw uniforms in [0, 1), float64 (len(indices), *shape); row i belongs to indices[i]."""
    return _rows([own.random(shape) for own in streams(seed, indices, purpose, step)], shape)


def rademacher(seed: int, indices: Sequence[int], shape: tuple[int, ...], purpose: Purpose, step: int = 0) -> Tensor:
    """Draw signs -1 or 1 with equal chance, float64 (len(indices), *shape); row i belongs to indices[i]."""
    return _rows([own.integers(0, 2, shape) * 2.0 - 1 for own in streams(seed, indices, purpose, step)], shape)


def training_generator(
    device: torch.device, seed: int, step: int, part: int, purpose: Purpose, streams: int = STREAMS
) -> torch.Generator:
    """Return a torch generator for the draws of one training step on one part of its batch.

    Args:
        streams: the version of the streams.
    """
    own = stream(seed, part, purpose, step)
    if streams == 1:
        return ShortSeeded(device=device).manual_seed(_number(own))
    return _generator(device, own)


def wide_generator(seed: int, purpose: Purpose) -> torch.Generator:
    """Return a generator on the CPU that heeds every bit of a seed; below 2^32 it is torch's own for this seed."""
    if seed < 2**32:
        return torch.Generator().manual_seed(seed)
    return _generator(torch.device("cpu"), stream(seed, 0, purpose))


class ShortSeeded(torch.Generator):
    """A generator of version 1 of the streams."""


def draw_seed(generator: torch.Generator) -> int:
    """Draw a seed for ``lent_seed``."""
    bits = 31 if isinstance(generator, ShortSeeded) else 62
    return int(torch.randint(2**bits, (), generator=generator, device=generator.device))


def _generator(device: torch.device, words: np.random.Generator) -> torch.Generator:
    generator = torch.Generator(device=device)
    if device.type != "cpu":
        return generator.manual_seed(_number(words))
    return generator.set_state(_twister(words))


def _number(words: np.random.Generator) -> int:
    return int(words.integers(0, 2**63, dtype=np.int64))


def _twister(words: np.random.Generator) -> Tensor:
    """Return a state of torch's generator on the CPU: its fresh state, with all words of the twister from ``words``.

    The state is 64-bit words: the seed, flags, the next place, 624 words of 32 bits, and numbers that are kept for
    later (``CPUGeneratorImplState`` in ATen/CPUGeneratorImpl.cpp).
    """
    state = torch.Generator().manual_seed(0).get_state()
    state.view(torch.int64)[3 : 3 + TWISTER] = torch.from_numpy(words.integers(0, 2**32, TWISTER))
    return state


class Draws(ABC):
    """A source of independent random numbers for a batch. Every call gives new ones.

    Attributes:
        held_out: whether the numbers are for sampling and scoring, not for training.
    """

    held_out: bool

    @abstractmethod
    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normals (B, *shape)."""

    @abstractmethod
    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Draw uniforms in [0, 1), (B, *shape)."""


@dataclass
class NumberedDraws(Draws):
    """Numbers, float64, that depend on (seed, indices[i], purpose) and on the number of earlier calls."""

    seed: int
    indices: Sequence[int]
    purpose: Purpose = Purpose.START
    calls: int = 0
    held_out: bool = True

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        self.calls += 1
        return normal(self.seed, self.indices, shape, self.purpose, self.calls - 1)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        self.calls += 1
        return uniform(self.seed, self.indices, shape, self.purpose, self.calls - 1)


@dataclass
class GeneratorDraws(Draws):
    """Numbers from a torch generator, on its device: for training."""

    n: int
    generator: torch.Generator
    dtype: torch.dtype = torch.float32
    held_out: bool = False

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(self.n, *shape, generator=self.generator, device=self.generator.device, dtype=self.dtype)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(self.n, *shape, generator=self.generator, device=self.generator.device, dtype=self.dtype)


@contextlib.contextmanager
def seeded(
    device: torch.device, seed: int, step: int, part: int, purpose: Purpose, streams: int = STREAMS
) -> Iterator[None]:
    """Set torch's global generators by the arguments inside this block, and restore them afterwards.

    This is for initial weights and dropout, which can draw from no other generator.
    """
    own = stream(seed, part, purpose, step)
    with _restored(device):
        if streams == 1:
            torch.manual_seed(_number(own))
        else:
            _set_global(device, own)
        yield


@contextlib.contextmanager
def lent_seed(device: torch.device, seed: int) -> Iterator[None]:
    """Set torch's global generators by a seed of ``draw_seed`` inside this block, and restore them afterwards."""
    with _restored(device):
        if seed < 2**31:  # of version 1 of the streams
            torch.manual_seed(seed)
        else:
            _set_global(device, stream(seed, 0, Purpose.DROPOUT))
        yield


def _restored(device: torch.device) -> contextlib.AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _set_global(device: torch.device, words: np.random.Generator) -> None:
    torch.set_rng_state(_twister(words))
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(_number(words))


def _rows(rows: list[np.ndarray], shape: tuple[int, ...]) -> Tensor:
    if not rows:
        return torch.zeros(0, *shape, dtype=torch.float64)
    return torch.from_numpy(np.stack(rows))
