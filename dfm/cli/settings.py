"""The commands: help in one line, and the keys of each with their types. ``configs/COMMAND.yaml`` explains the keys.

This module imports no torch, so ``dfm --help`` and completion never wait for it.
"""

from dataclasses import dataclass
from typing import Annotated

from dfm.basics.locations import PathText

CLASSES = "names or numbers of classes"
LabelText = Annotated[int | str | tuple[int | str, ...] | None, CLASSES]


@dataclass(frozen=True)
class GridSettings:
    """The keys ``samples.*`` of ``dfm train``: the pictures that are drawn during training."""

    n: int
    seed: int


@dataclass(frozen=True)
class LikelihoodSettings:
    """The keys ``nll.*`` of ``dfm train``: the likelihood at the end."""

    n: int
    split: str
    seed: int
    batch_size: int
    audit: int
    max_minutes: float | None = None


@dataclass(frozen=True)
class TrainSettings:
    """The keys of ``dfm train``."""

    conditional: bool
    samples: GridSettings
    nll: LikelihoodSettings
    resume: PathText | None = None
    init: PathText | None = None
    label_dropout: float = 0.0


@dataclass(frozen=True)
class SampleSettings:
    """The keys of ``dfm sample``."""

    ckpt: PathText | None
    n: int
    seed: int
    batch_size: int | None
    label: LabelText
    index: int | None
    split: str
    mask: PathText | None
    png: bool
    device: str
    precision: str


@dataclass(frozen=True)
class EncodeSettings:
    """The keys of ``dfm encode``."""

    ckpt: PathText | None
    split: str
    n: int
    seed: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class DecodeSettings:
    """The keys of ``dfm decode``."""

    ckpt: PathText | None
    latents: PathText | None
    interpolate: int
    label: LabelText
    batch_size: int
    device: str


@dataclass(frozen=True)
class CompareSettings:
    """The keys of ``dfm compare``."""

    ckpt: PathText | None
    other: PathText | None
    n: int
    seed: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class CheckSettings:
    """The keys of ``dfm check``."""

    ckpt: PathText | None
    steps: tuple[int, ...]
    samplers: tuple[str, ...] | None
    n: int
    seed: int
    batch_size: int
    device: str


@dataclass(frozen=True)
class EvalSettings:
    """The keys of ``dfm eval``."""

    ckpt: PathText | None
    samples: PathText | None
    n: int | None
    split: str
    seed: int
    batch_size: int | None
    label: LabelText
    device: str
    precision: str


@dataclass(frozen=True)
class NllSettings:
    """The keys of ``dfm nll``."""

    ckpt: PathText | None
    split: str
    n: int | None
    seed: int
    batch_size: int
    audit: int
    against: PathText | None
    per_class: bool
    device: str
    max_minutes: float | None = None


@dataclass(frozen=True)
class DataSettings:
    """The keys of ``dfm data``."""

    n: int | None
    duplicates: bool


@dataclass(frozen=True, kw_only=True)
class Command:
    """A word after ``dfm``.

    Args:
        summary: one line of help.
        example: a command line that works.
        module: the module below ``dfm.cli.commands``; it has a function ``run(job)``.
        settings: the class of the command's own keys.
        results: patterns of the files that it leaves in its directory, beside ``dfm.runs.claim.PREAMBLE``.
        shared: whether the processes of torchrun share its work.
        memory: the keys that decide how much memory it takes.
    """

    summary: str
    example: str
    module: str
    settings: type
    results: tuple[str, ...]
    shared: bool = False
    memory: tuple[str, ...] = ("batch_size",)


COMMANDS = {
    "data": Command(
        summary="what is in a data set, what the network sees, and what suits it",
        example="dfm data dataset=folder dataset.path=DIR",
        module="data.command",
        settings=DataSettings,
        results=("data.json",),
        memory=("n",),
    ),
    "train": Command(
        summary="train a model",
        example="dfm train experiment=digits_flow",
        module="train.command",
        settings=TrainSettings,
        results=(
            *(
                "checkpoints/*.pt*",
                "weights.safetensors",
                "metrics.jsonl",
                "samples/*.png",
                "pairs/*.safetensors",
            ),
            *("nll.*", "levels*.*", "estimators.csv", "classifier.*"),
        ),
        shared=True,
        memory=("trainer.batch_size", "nll.batch_size"),
    ),
    "sample": Command(
        summary="draw samples from a checkpoint",
        example="dfm sample ckpt=latest sampler=heun sampler.steps=18",
        module="sample.command",
        settings=SampleSettings,
        results=("sample.json", "samples.npz", "grid.png", "task.png", "png/*.png"),
        shared=True,
    ),
    "encode": Command(
        summary="data to latents along the ODE, and back",
        example="dfm encode ckpt=latest n=64",
        module="encode",
        settings=EncodeSettings,
        results=("encode.json", "latents.npz", "grid.png"),
    ),
    "decode": Command(
        summary="latents to data, and interpolation",
        example="dfm decode ckpt=latest latents=RUN_OF_ENCODE interpolate=8",
        module="decode",
        settings=DecodeSettings,
        results=("decode.json", "samples.npz", "grid.png"),
    ),
    "compare": Command(
        summary="the same latents through two models",
        example="dfm compare ckpt=RUN_A other=RUN_B",
        module="compare",
        settings=CompareSettings,
        results=("compare.json", "samples.npz", "grid.png"),
    ),
    "check": Command(
        summary="is it the sampler or the network? errors on a known law",
        example="dfm check sampler=heun schedule=vp",
        module="check.command",
        settings=CheckSettings,
        results=("check.json", "error_against_nfe.png", "quality_against_nfe.png"),
    ),
    "eval": Command(
        summary="how good samples are: Frechet and kernel distance, precision, recall",
        example="dfm eval ckpt=latest n=1000",
        module="eval.command",
        settings=EvalSettings,
        results=("eval.json", "samples.npz", "grid.png"),
    ),
    "nll": Command(
        summary="score held-out data: bits/dim or nats",
        example="dfm nll ckpt=latest",
        module="nll.command",
        settings=NllSettings,
        results=("nll.*", "levels*.*", "estimators.csv", "per_class.*", "path.*"),
        shared=True,
    ),
}
