"""Features of images: the last layer of a small classifier of their classes."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfm.basics.devices import resolve_device
from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically
from dfm.basics.locations import PathText, located
from dfm.basics.seeding import Purpose, seeded
from dfm.data.dataset import Dataset, DatasetSpec, Split, data_folder
from dfm.data.numbers.pixel_levels import centres
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.evaluation.classifier_file import digest_of, pack, read, weights_of
from dfm.evaluation.features import Coordinates, Features, kind_for
from dfm.models.classifiers import ImageClassifier
from dfm.paths.variance_exploding import Edm
from dfm.training.objectives.classification import Classification
from dfm.training.objectives.densities import LogNsrDensity
from dfm.training.step_report import StepReport
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

log = logging.getLogger("dfm")

GROUPS = 8  # groups of channels in each normalisation
BATCH = 500  # images in a call of the network
CLEAN = Edm(t_min=1e-3, t_max=2e-3)  # at most a quarter of the smallest cell of a pixel level: practically no noise


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of the classifier: an ``ImageClassifier`` without attention, trained with cross-entropy.

    Args:
        channels, channel_multipliers, blocks_per_level: the network; its last width is the number of features.
        steps, passes: the training ends after ``steps`` steps, or after ``passes`` passes through the data if that is
            earlier. A network that has memorised its data maps each class to one point, and its features show nothing
            but the class.
        batch_size, lr, ema_decay, seed: as in ``TrainerConfig``.

    Raises:
        UserError: a count is below one, or a width is not a multiple of the network's number of groups.
    """

    channels: int = 16
    channel_multipliers: tuple[float, ...] = (1.0, 2.0, 4.0)
    blocks_per_level: int = 1
    steps: int = 2000
    passes: int = 20
    batch_size: int = 128
    lr: float = 3e-3
    ema_decay: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("channels", "blocks_per_level", "steps", "passes", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"features.recipe.{name}={getattr(self, name)}; allowed: a whole number of at least 1")
        widths = [round(self.channels * multiplier) for multiplier in self.channel_multipliers]
        if not widths or any(width < 1 or width % GROUPS for width in widths):
            raise UserError(
                f"features.recipe: {self.channels} channels times {list(self.channel_multipliers)} give {widths}; "
                f"allowed: multiples of {GROUPS}"
            )


class ClassifierFeatures(Features):
    """The inputs of the last layer of a classifier of the data's classes.

    Args:
        data: images with at least two classes.
        device: the device on which the classifier is trained and used.
        recipe: the settings of the classifier.
        cache: the folder for the trained classifier, ``features/NAME-KEY.safetensors``; ``~`` is the home folder.

    Raises:
        UserError: the data are points, or images with fewer than two classes.
    """

    def __init__(
        self,
        *,
        data: Dataset,
        device: torch.device | None = None,
        recipe: Recipe | None = None,
        cache: PathText = "~/.cache/dfm",
    ) -> None:
        super().__init__(data=data)
        spec = data.spec
        if spec.levels is None or spec.num_classes < 2:
            kind = "points" if spec.levels is None else f"images with {spec.num_classes} classes"
            raise UserError(
                f"features=classifier: {spec.name} is {kind}; allowed: images with at least 2 classes; "
                "try features=coordinates"
            )
        self.device, self.recipe = device or torch.device("cpu"), recipe or Recipe()
        self.folder = located(cache) / "features"
        self._model = _new_classifier(self.recipe, spec)
        self._facts: dict[str, Any] | None = None

    @property
    def steps(self) -> int:
        return min(self.recipe.steps, math.ceil(self.recipe.passes * len(self._train) / self.recipe.batch_size))

    @property
    def file(self) -> Path:
        """The file of the classifier. Its name holds a hash of the recipe and of the training data."""
        digest = hashlib.sha256(json.dumps([asdict(self.recipe), self.data.spec.form]).encode())
        train = self._train
        assert train.labels is not None
        for _, block in train.blocks():
            digest.update(block.contiguous().numpy().data)
        digest.update(train.labels.numpy().data)
        return self.folder / f"{self.data.spec.name}-{digest.hexdigest()[:16]}.safetensors"

    def prepare(self) -> Iterator[StepReport]:
        """Read the classifier from its file. If there is no file, or it is damaged, train the classifier and write it.

        Two processes that train at the same time do the same work; the file of the later one remains.

        Raises:
            UserError: the cache cannot be written to.
        """
        if self._facts is None:
            file = self.file
            self._facts = read(file, self._model.module())
            if self._facts is None:
                self._make_folder()
                trainer = self._trainer()
                yield from trainer.steps()
                self._model = trainer.averaged()
                self._facts = self._describe()
                try:
                    write_atomically(file, pack(self._model.module(), self._facts))
                except OSError as problem:
                    log.warning(f"{file} not written ({problem.strerror}); the next time it is trained again")
            # One memory layout for a trained and for a read network, so that both give the same numbers bit for bit.
            network = self._model.module().to(self.device).to(memory_format=torch.contiguous_format)
            network.eval().requires_grad_(False)

    def of(self, values: Tensor) -> Tensor:
        self._make_ready()
        network = self._model.module()
        assert isinstance(network, ImageClassifier)
        return torch.cat([network.features(*inputs).double().cpu() for inputs in self._inputs(values)])

    @property
    def facts(self) -> dict[str, Any]:
        """The hash of the weights, the accuracy on held-out data, and the recipe."""
        self._make_ready()
        assert self._facts is not None
        return self._facts

    @property
    def _train(self) -> Split:
        return self.data.split("train")

    def _make_ready(self) -> None:
        for _ in self.prepare():
            pass

    def _make_folder(self) -> None:
        """Make the folder before the training, so that a mistake in its name does not cost the training."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise UserError(
                f"features.cache: the folder {self.folder} cannot be made ({problem.strerror}); try features.cache=DIR"
            ) from None
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"features.cache: the folder {self.folder} cannot be written to; try features.cache=DIR")

    def _trainer(self) -> Trainer:
        recipe = self.recipe
        config = TrainerConfig(
            max_steps=self.steps,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            ema_decay=recipe.ema_decay,
            seed=recipe.seed,
        )
        objective = Classification(density=LogNsrDensity())
        return Trainer(config, self._model, objective, self._train, device=self.device)

    def _describe(self) -> dict[str, Any]:
        return {
            "kind": "classifier",
            "dataset": self.data.spec.name,
            "sha256": digest_of(weights_of(self._model.module())),
            "accuracy": self._accuracy(),
            "recipe": asdict(self.recipe),
        }

    def _accuracy(self) -> float | None:
        """Return the accuracy on the test split, or None if it is empty."""
        test = self.data.split("test")
        if len(test) == 0:
            return None
        assert test.labels is not None
        network = self._model.module()
        predictions = torch.cat([network(*inputs).argmax(1).cpu() for inputs in self._inputs(test.all())])
        return float(torch.eq(predictions, test.labels).double().mean())

    def _inputs(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs of the network for these examples, a batch at a time."""
        levels = self.data.spec.levels
        assert levels is not None
        t_min = torch.tensor(CLEAN.t_min, dtype=torch.float64)
        for part in values.split(BATCH):
            yield self._model.inputs(centres(part, levels).float().to(self.device), t_min)


def _new_classifier(recipe: Recipe, spec: DatasetSpec) -> NoisyClassifier:
    """Return a classifier with fresh weights, a function of the recipe's seed."""
    with seeded(torch.device("cpu"), recipe.seed, 0, 0, Purpose.INITIAL_WEIGHTS, streams=1):
        network = ImageClassifier(
            shape=spec.shape,
            num_classes=spec.num_classes,
            channels=recipe.channels,
            channel_multipliers=recipe.channel_multipliers,
            blocks_per_level=recipe.blocks_per_level,
            attention_levels=(),
            groups=GROUPS,
        )
    return NoisyClassifier(spec=spec, schedule=CLEAN, trained_schedule=CLEAN, network=network)


def features_for(data: Dataset, device: str = "auto", cache: str | None = None) -> Features:
    """Return the default features of a data set; for use from Python.

    With ``f = features_for(data)``, ``quality(f.of(samples), f.of(data.split("test").all()))`` compares samples.

    Args:
        cache: the folder for the classifier; the default is ``dfm.data.dataset.data_folder``.

    Raises:
        UserError: images without classes.
    """
    if kind_for(data.spec) == "coordinates":
        return Coordinates(data=data)
    return ClassifierFeatures(data=data, device=resolve_device(device), cache=cache or data_folder())
