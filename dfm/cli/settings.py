"""Each command's own keys, checked against their types; ``configs/COMMAND.yaml`` says what each is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SampleSettings:
    """The command's own keys; ``configs/sample.yaml`` says what each is."""

    ckpt: str | None
    n: int
    seed: int
    batch_size: int | None
    label: int | str | None
    index: int | None
    split: str
    mask: str | None
    png: bool
    device: str
    precision: str


@dataclass(frozen=True)
class CompareSettings:
    """The command's own keys; ``configs/compare.yaml`` says what each is."""

    ckpt: str | None
    other: str | None
    n: int
    seed: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class CheckSettings:
    """The command's own keys; ``configs/check.yaml`` says what each is."""

    ckpt: str | None
    steps: tuple[int, ...]
    samplers: tuple[str, ...] | None
    n: int
    seed: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class EvalSettings:
    """The command's own keys; ``configs/eval.yaml`` says what each is."""

    ckpt: str | None
    samples: str | None
    n: int | None
    split: str
    seed: int
    batch_size: int | None
    label: int | str | None
    device: str
    precision: str


@dataclass(frozen=True)
class NllSettings:
    """The command's own keys; ``configs/nll.yaml`` says what each is."""

    ckpt: str | None
    split: str
    n: int | None
    seed: int
    batch_size: int
    audit: int
    against: str | None
    per_class: bool
    device: str


@dataclass(frozen=True)
class EncodeSettings:
    """The command's own keys; ``configs/encode.yaml`` says what each is."""

    ckpt: str | None
    split: str
    n: int
    seed: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class DecodeSettings:
    """The command's own keys; ``configs/decode.yaml`` says what each is."""

    ckpt: str | None
    latents: str | None
    interpolate: int
    label: int | None
    batch_size: int
    device: str


@dataclass(frozen=True)
class GridSettings:
    """``samples`` in ``configs/train.yaml``: the pictures drawn on the way."""

    n: int
    seed: int


@dataclass(frozen=True)
class LikelihoodSettings:
    """``nll`` in ``configs/train.yaml``: the likelihood at the end."""

    n: int
    split: str
    seed: int
    batch_size: int
    audit: int
