"""The parts of a configuration: data set, denoiser, objective, sampler, likelihood. Each is built once and checked."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, seeded
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.numbers.dequantization import Dequantization
from dfm.denoising.interpolant import InterpolantDenoiser
from dfm.denoising.langevin import LangevinDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.denoising.predictions import Prediction
from dfm.evaluation.features import Features
from dfm.likelihood.estimator import Estimators
from dfm.models.classifiers import CLASSIFIERS
from dfm.paths.interpolant_latents import InterpolantLatent
from dfm.paths.priors import Prior
from dfm.paths.schedule import Schedule
from dfm.runs.build import build, target_of
from dfm.runs.loggers import Logger
from dfm.runs.pictures.decoders import Decoder
from dfm.sampling.guidance import Guidance
from dfm.sampling.inverse_problems import Task
from dfm.sampling.ode_flow import OdeMap
from dfm.sampling.samplers import Sampler
from dfm.training.objectives.base import Model, Objective
from dfm.training.objectives.couplings import Coupling
from dfm.training.trainer_config import TrainerConfig
from dfm.training.warps import Warp

Config = dict[str, Any]
PartT = TypeVar("PartT")
CPU = torch.device("cpu")
DFM = ("dfm",)

# The options of groups that an old configuration may lack, because the groups came later.
ABSENT = {
    "latent": {"_target_": "dfm.paths.NoLatent"},
    "prior": {"_target_": "dfm.paths.GaussianPrior"},
    "coupling": {"_target_": "dfm.training.IndependentCoupling"},
    "dequantization": {"_target_": "dfm.data.UniformDequantization"},
    "augmentation": {"_target_": "dfm.training.NoWarp"},
    "decoder": {"_target_": "dfm.runs.NoDecoder"},
}


class Parts:
    """The parts of a configuration. Each is built when it is first used.

    Args:
        config: the configuration of a command line or of a checkpoint, in plain containers.
        trusted: the packages whose classes it may name.

    Raises:
        UserError: (all members) a part is missing, has another kind, or cannot be built.
    """

    def __init__(self, config: Config, trusted: Sequence[str] = DFM) -> None:
        self.config, self.trusted = {**ABSENT, **config}, trusted

    def part(self, group: str, kind: type[PartT], **offered: Any) -> PartT:
        """Return the part that a group's node describes. It must be a ``kind``."""
        if group not in self.config:
            raise UserError(f"this configuration has no {group}; allowed: a configuration that 'dfm train' wrote")
        part = build(self.config[group], group, self.trusted, **offered)
        if not isinstance(part, kind):
            raise UserError(f"{group}: a {type(part).__name__}; allowed: a {kind.__name__}")
        return part

    @cached_property
    def dataset(self) -> Dataset:
        """The data set. Its files are checked, but not read yet."""
        return self.part("dataset", Dataset)

    @cached_property
    def dequantization(self) -> Dequantization:
        """The noise that makes real numbers of integer pixel levels."""
        return self.part("dequantization", Dequantization)

    @cached_property
    def augmentation(self) -> Warp:
        """The random change of pictures of which the network is told."""
        return self.part("augmentation", Warp)

    @cached_property
    def schedule(self) -> Schedule:
        """The noising path."""
        return self.part("schedule", Schedule)

    @cached_property
    def objective(self) -> Objective:
        """The training objective, with its density and its loss weight."""
        return self.part("objective", Objective)

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler, with its stepper and grid."""
        return self.part("sampler", Sampler)

    @cached_property
    def guidance(self) -> Guidance:
        """The guidance of sampling."""
        return self.part("guidance", Guidance)

    @cached_property
    def task(self) -> Task:
        """The inverse problem."""
        return self.part("task", Task)

    @cached_property
    def flow(self) -> OdeMap:
        """The map between data and latents along the ODE, which encode and decode use."""
        return self.part("flow", OdeMap)

    @cached_property
    def likelihood(self) -> Estimators:
        """The likelihood estimator, or several of them."""
        return self.part("likelihood", Estimators)

    @cached_property
    def trainer(self) -> TrainerConfig:
        """The settings of the trainer."""
        return self.part("trainer", TrainerConfig)

    @cached_property
    def logger(self) -> Logger:
        """The logger: a further place for numbers and pictures, beside the run directory."""
        return self.part("logger", Logger)

    @cached_property
    def decoder(self) -> Decoder:
        """What makes pictures of latents, for the eye."""
        return self.part("decoder", Decoder)

    def features(self, data: Dataset, device: torch.device) -> Features:
        """Return the features in which examples of a data set are compared."""
        return self.part("features", Features, data=data, device=device)

    def spec(self, conditional: bool) -> DatasetSpec:
        """Return the form of the data for the model. It has no classes unless the model is conditional on them."""
        spec = self.dataset.spec
        if conditional and not spec.num_classes:
            raise UserError(f"conditional=true: dataset {spec.name} has no classes; try conditional=false")
        return spec if conditional else replace(spec, num_classes=0, class_names=())

    def model(self, spec: DatasetSpec, device: torch.device = CPU) -> Model:
        """Return the model that the objective trains, with fresh weights: a function of the training seed.

        Args:
            device: where the weights are made. On ``meta`` they have shapes and take no memory.
        """
        return self.classifier(spec, device) if self.objective.trains == "classifier" else self.denoiser(spec, device)

    @contextmanager
    def _fresh(self, device: torch.device) -> Iterator[None]:
        """Make the weights of a network inside this block: on the device, from the seed of the training run."""
        with device, seeded(CPU, int(self.config["trainer"]["seed"]), 0, 0, Purpose.INITIAL_WEIGHTS, streams=1):
            yield

    def denoiser(self, spec: DatasetSpec, device: torch.device = CPU) -> NetworkDenoiser:
        """Return the denoiser that the objective trains, with fresh weights; see ``model``."""
        prediction, latent = self.part("prediction", Prediction), self.part("latent", InterpolantLatent)
        prediction.check(self.schedule, spec.std)
        independent = self.part("coupling", Coupling).independent and self.objective.outcome({}).independent
        plain = NetworkDenoiser(
            spec=spec,
            schedule=self.schedule,
            trained_schedule=self.schedule,
            prediction=prediction,
            network=self._network(spec, latent.outputs, device),
            prior=self.part("prior", Prior),
            independent=independent,
        )
        if plain.prior.is_potential:
            return self.objective.denoiser(LangevinDenoiser(**vars(plain)))
        return self.objective.denoiser(
            plain if latent.outputs == 1 else InterpolantDenoiser(**vars(plain), latent=latent)
        )

    def _network(self, spec: DatasetSpec, outputs: int, device: torch.device) -> nn.Module:
        two_times, changes = self.objective.times == 2, self.augmentation.numbers
        offered = {
            "shape": spec.shape,
            "num_classes": spec.num_classes,
            "std": spec.std,
            "centre": spec.centre,
            "shift": spec.shift,
            "scale": spec.scale,
            "grey_levels": spec.levels,
            "outputs": outputs,
            "two_times": two_times,
            "changes": changes,
        }
        with self._fresh(device):
            network = self.part("model", nn.Module, **offered)
        taken = inspect.signature(type(network)).parameters
        if changes and "changes" not in taken:
            raise UserError(
                f"model: {type(network).__name__} cannot be told of a change, and augmentation needs a network that "
                "is; allowed: a network with the parameter changes, or augmentation=none; try augmentation=none"
            )
        if two_times and "two_times" not in taken:
            way = "model=unet_small" if len(spec.shape) in (2, 3, 4) else "model=mlp"
            raise UserError(
                f"model: {type(network).__name__} takes one time, and this objective needs a network of two times; "
                f"allowed: a network with the parameter two_times; try {way}"
            )
        return network

    def classifier(self, spec: DatasetSpec, device: torch.device = CPU) -> NoisyClassifier:
        """Return a noisy classifier with fresh weights, built like the configuration's network and with its options."""
        options = dict(self.config["model"])
        kind = CLASSIFIERS.get(target_of(str(options.pop("_target_")), "model", self.trusted))
        if kind is None:
            way = "model=unet_small" if len(spec.shape) in (2, 3, 4) else "model=mlp"
            raise UserError(
                f"objective=classifier: this model has no classifier; allowed: a unet, or mlp for points; try {way}"
            )
        if self.config.get("label_dropout"):
            raise UserError("objective=classifier: label_dropout would hide the labels; allowed: label_dropout=0")
        shared = {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}
        node = {"_target_": f"{kind.__module__}.{kind.__name__}", **shared}
        with self._fresh(device):
            network = build(node, "model", DFM, shape=spec.shape, num_classes=spec.num_classes)
        return NoisyClassifier(spec=spec, schedule=self.schedule, trained_schedule=self.schedule, network=network)
