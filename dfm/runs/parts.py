"""A configuration into its parts: data set, denoiser, objective, sampler, likelihood. Each is built once and checked."""

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import nn

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, seeded
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.dequantization import Dequantization
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
from dfm.sampling.guidance import Guidance
from dfm.sampling.inverse_problems import Task
from dfm.sampling.ode_flow import OdeMap
from dfm.sampling.samplers import Sampler
from dfm.training.objectives.base import Model, Objective
from dfm.training.objectives.couplings import Coupling
from dfm.training.trainer_config import TrainerConfig

Config = dict[str, Any]
PartT = TypeVar("PartT")
CPU = torch.device("cpu")
DFM = ("dfm",)

# The options of groups that a configuration may lack, because it is older than they are.
ABSENT = {
    "latent": {"_target_": "dfm.paths.NoLatent"},
    "prior": {"_target_": "dfm.paths.GaussianPrior"},
    "coupling": {"_target_": "dfm.training.IndependentCoupling"},
    "dequantization": {"_target_": "dfm.data.UniformDequantization"},
}


class Parts:
    """The parts of a configuration, each built when it is first asked for.

    Args:
        config: plain containers, of a command line or of a checkpoint.
        trusted: the packages whose classes it may name.

    Raises:
        UserError: (all members) a part is missing, of another kind, or cannot be built.
    """

    def __init__(self, config: Config, trusted: Sequence[str] = DFM) -> None:
        self.config, self.trusted = {**ABSENT, **config}, trusted

    def part(self, group: str, kind: type[PartT], **offered: Any) -> PartT:
        """Build the part that a group's node names, and check that it is a ``kind``."""
        if group not in self.config:
            raise UserError(f"this configuration has no {group}; allowed: one that 'dfm train' wrote")
        part = build(self.config[group], group, self.trusted, **offered)
        if not isinstance(part, kind):
            raise UserError(f"{group}: a {type(part).__name__}; allowed: a {kind.__name__}")
        return part

    @cached_property
    def dataset(self) -> Dataset:
        """The data set; its files are checked, not yet read."""
        return self.part("dataset", Dataset)

    @cached_property
    def dequantization(self) -> Dequantization:
        """How integer levels become real numbers."""
        return self.part("dequantization", Dequantization)

    @cached_property
    def schedule(self) -> Schedule:
        """The path."""
        return self.part("schedule", Schedule)

    @cached_property
    def objective(self) -> Objective:
        """The training loss, with its density and weight."""
        return self.part("objective", Objective)

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler, with its stepper and grid."""
        return self.part("sampler", Sampler)

    @cached_property
    def guidance(self) -> Guidance:
        """How sampling is guided."""
        return self.part("guidance", Guidance)

    @cached_property
    def task(self) -> Task:
        """The inverse problem."""
        return self.part("task", Task)

    @cached_property
    def flow(self) -> OdeMap:
        """How encode and decode follow the ODE."""
        return self.part("flow", OdeMap)

    @cached_property
    def likelihood(self) -> Estimators:
        """The likelihood estimator, or several."""
        return self.part("likelihood", Estimators)

    @cached_property
    def trainer(self) -> TrainerConfig:
        """The numbers of the training run."""
        return self.part("trainer", TrainerConfig)

    @cached_property
    def logger(self) -> Logger:
        """Where numbers and pictures go besides the run directory."""
        return self.part("logger", Logger)

    def features(self, data: Dataset, device: torch.device) -> Features:
        """The numbers in which examples of a data set are compared."""
        return self.part("features", Features, data=data, device=device)

    def spec(self, conditional: bool) -> DatasetSpec:
        """Return what the model must know of the data: without classes unless it is conditional on them."""
        spec = self.dataset.spec
        if conditional and not spec.num_classes:
            raise UserError(f"conditional=true: dataset {spec.name} has no classes; try conditional=false")
        return spec if conditional else replace(spec, num_classes=0)

    def model(self, spec: DatasetSpec, device: torch.device = CPU) -> Model:
        """Return the model that the objective trains, with fresh weights: a function of the training seed.

        Args:
            device: where the weights are made; on ``meta`` they have shapes and take no memory.
        """
        return self._classifier(spec, device) if self.objective.trains == "classifier" else self._denoiser(spec, device)

    def _fresh(self, device: torch.device) -> ExitStack:
        """Return a context in which the weights of a network are made."""
        stack = ExitStack()
        stack.enter_context(device)
        stack.enter_context(seeded(CPU, int(self.config["trainer"]["seed"]), 0, 0, Purpose.INITIAL_WEIGHTS))
        return stack

    def _denoiser(self, spec: DatasetSpec, device: torch.device) -> NetworkDenoiser:
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
        two_times = self.objective.times == 2
        offered = {
            "shape": spec.shape,
            "num_classes": spec.num_classes,
            "std": spec.std,
            "grey_levels": spec.levels,
            "outputs": outputs,
            "two_times": two_times,
        }
        with self._fresh(device):
            network = self.part("model", nn.Module, **offered)
        if two_times and "two_times" not in inspect.signature(type(network)).parameters:
            raise UserError(
                "this objective needs a network of two times, and this model takes one; try model=unet... or mlp"
            )
        return network

    def _classifier(self, spec: DatasetSpec, device: torch.device) -> NoisyClassifier:
        """A noisy classifier in the form of the configuration's network, whose options it shares."""
        options = dict(self.config["model"])
        kind = CLASSIFIERS.get(target_of(str(options.pop("_target_")), "model", self.trusted))
        if kind is None:
            raise UserError(
                "objective=classifier: this model has no classifier; allowed: model=unet..., or mlp for points"
            )
        if self.config.get("label_dropout"):
            raise UserError("objective=classifier: label_dropout hides what it learns; allowed: label_dropout=0")
        shared = {name: value for name, value in options.items() if name in inspect.signature(kind).parameters}
        node = {"_target_": f"{kind.__module__}.{kind.__name__}", **shared}
        with self._fresh(device):
            network = build(node, "model", DFM, shape=spec.shape, num_classes=spec.num_classes)
        return NoisyClassifier(spec=spec, schedule=self.schedule, trained_schedule=self.schedule, network=network)
