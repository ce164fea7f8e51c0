"""From a run's configuration to its parts: data set, denoiser, objective, sampler, likelihood."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dfm.classifiers import NoisyClassifier
from dfm.config import build
from dfm.couplings import Coupling
from dfm.datasets.base import Dataset, DatasetSpec
from dfm.dequantization import Dequantization
from dfm.errors import UserError
from dfm.features import Features
from dfm.flows import OdeFlow
from dfm.guidance import Guidance
from dfm.interpolants import InterpolantDenoiser, Latent, NoLatent
from dfm.inverse import Task
from dfm.langevin import LangevinDenoiser
from dfm.likelihood import Likelihood, Several
from dfm.meanflow import MeanFlow, flow_map
from dfm.models.classifier import ImageClassifier, PointClassifier
from dfm.networks import NetworkDenoiser
from dfm.objectives import Model, Objective
from dfm.oracles import MixtureDenoiser
from dfm.potentials import Potential
from dfm.predictions import Prediction
from dfm.priors import Prior
from dfm.samplers import Sampler
from dfm.schedules import Schedule
from dfm.seeding import Purpose, lent_seed

Config = dict[str, Any]
CPU = torch.device("cpu")

# What the groups stand at in a configuration that was written before they existed.
ABSENT = {
    "latent": {"_target_": "dfm.interpolants.NoLatent"},
    "prior": {"_target_": "dfm.priors.Gaussian"},
    "coupling": {"_target_": "dfm.couplings.Independent"},
    "dequantization": {"_target_": "dfm.dequantization.Uniform"},
}

# What changes nothing, of the groups that not every objective takes.
NEUTRAL = {"uncertainty": "uncertainty.Fixed", "coupling": "couplings.Independent"}

# The classifier that goes with a model: it takes of the model's options those that it knows.
CLASSIFIERS: dict[str, type[nn.Module]] = {
    "dfm.models.unet.UNet": ImageClassifier,
    "dfm.models.mlp.MLP": PointClassifier,
}


def trusted(config: Config) -> Sequence[str]:
    """Packages whose classes a configuration may name: dfm, and what the command line's ``trust`` adds."""
    extra = config.get("trust") or []
    return ("dfm", *([extra] if isinstance(extra, str) else extra))


def dataset(config: Config, trust: Sequence[str]) -> Dataset:
    """The data set; its files are checked, not yet read."""
    return _expect(build(config["dataset"], "dataset", trust), Dataset, "dataset")


def spec_of(data: Dataset, conditional: bool) -> DatasetSpec:
    """What the model must know of the data: without classes unless it is to be conditional on them.

    Raises:
        UserError: conditional on classes that the data do not have.
    """
    if conditional and not data.spec.num_classes:
        raise UserError(f"conditional=true: dataset {data.spec.name} has no classes; try conditional=false")
    return data.spec if conditional else replace(data.spec, num_classes=0)


def denoiser(config: Config, spec: DatasetSpec, trust: Sequence[str], place: torch.device = CPU) -> NetworkDenoiser:
    """A network with fresh weights (a function of the training seed) in its role as a denoiser.

    Args:
        place: where the weights are made: on ``meta`` they have shapes and take no memory.

    Raises:
        UserError: the prediction is singular on the schedule, or the network does not fit the data.
    """
    config = {**ABSENT, **config}
    path = schedule(config, trust)
    prediction = _expect(build(config["prediction"], "prediction", trust), Prediction, "prediction")
    prediction.check(path, spec.std)
    latent = _expect(build(config["latent"], "latent", trust), Latent, "latent")
    outputs = 1 if isinstance(latent, NoLatent) else 2
    learned = objective(config, trust)
    two_times = isinstance(learned, MeanFlow)
    offered = {
        "shape": spec.shape, "num_classes": spec.num_classes, "std": spec.std, "grey_levels": spec.levels,
        "outputs": outputs, "two_times": two_times,
    }  # fmt: skip
    with place, lent_seed(CPU, int(config["trainer"]["seed"]), 0, 0, Purpose.INITIAL_WEIGHTS):
        network = _expect(build(config["model"], "model", trust, **offered), nn.Module, "model")
    if two_times and "two_times" not in inspect.signature(type(network)).parameters:
        raise UserError("objective=meanflow: this model takes no second time; allowed: model=unet..., or mlp")
    plain = NetworkDenoiser(
        spec=spec, schedule=path, trained=path, prediction=prediction, network=network,
        source=_expect(build(config["prior"], "prior", trust), Prior, "prior"),
        independent=_expect(build(config["coupling"], "coupling", trust), Coupling, "coupling").independent
        and learned.independent,
    )  # fmt: skip
    if two_times and outputs == 1 and not isinstance(plain.source, Potential):
        return flow_map(plain)
    if two_times:
        raise UserError("objective=meanflow learns a velocity; allowed: latent=none, and a prior that is no potential")
    if isinstance(plain.source, Potential):
        return LangevinDenoiser(**vars(plain))
    return plain if outputs == 1 else InterpolantDenoiser(**vars(plain), latent=latent)


def classifier(config: Config, spec: DatasetSpec, trust: Sequence[str], place: torch.device = CPU) -> NoisyClassifier:
    """A noisy classifier with fresh weights (a function of the training seed), in the form of the config's model.

    Args:
        place: as for ``denoiser``.

    Raises:
        UserError: data without classes, hidden classes, or a model that has no such form.
    """
    given = dict(config["model"])
    kind = CLASSIFIERS.get(given.pop("_target_"))
    if kind is None:
        raise UserError("objective=classifier: of this model none is known; allowed: model=unet..., or mlp for points")
    if config.get("label_dropout"):
        raise UserError("objective=classifier: label_dropout hides what it is to learn; allowed: label_dropout=0")
    known = {name: value for name, value in given.items() if name in inspect.signature(kind).parameters}
    node = {"_target_": f"{kind.__module__}.{kind.__name__}", **known}
    with place, lent_seed(CPU, int(config["trainer"]["seed"]), 0, 0, Purpose.INITIAL_WEIGHTS):
        network = build(node, "model", trust, shape=spec.shape, num_classes=spec.num_classes)
    path = schedule(config, trust)
    return NoisyClassifier(spec=spec, schedule=path, trained=path, network=network)


def is_classifier(config: Config) -> bool:
    """Whether a run trained a noisy classifier and not a denoiser."""
    return str(config["objective"].get("_target_", "")) == "dfm.objectives.Classification"


def model(config: Config, spec: DatasetSpec, trust: Sequence[str], place: torch.device = CPU) -> Model:
    """What the run trains."""
    return (classifier if is_classifier(config) else denoiser)(config, spec, trust, place)


def oracle(data: Dataset, path: Schedule) -> MixtureDenoiser:
    """The exact denoiser of a data set whose law is a Gaussian mixture.

    Raises:
        UserError: it is not.
    """
    mixture = getattr(data, "mixture", None)
    if mixture is None:
        raise UserError(f"dataset={data.name}: its law is not known exactly; allowed: dataset=mixture, eight_gaussians")
    d = mixture.means.shape[1]
    spec = DatasetSpec(
        name=data.name, shape=(d,), levels=None, num_classes=0,
        mean=float(mixture.mean.mean()), std=float(mixture.variance**0.5),
    )  # fmt: skip
    return MixtureDenoiser(spec=spec, schedule=path, mixture=mixture)


def schedule(config: Config, trust: Sequence[str]) -> Schedule:
    """The path."""
    return _expect(build(config["schedule"], "schedule", trust), Schedule, "schedule")


def objective(config: Config, trust: Sequence[str]) -> Objective:
    """The training loss, with its density and weight."""
    return _expect(build(config["objective"], "objective", trust), Objective, "objective")


def check_used(config: Config) -> None:
    """That the objective takes those of its groups that were chosen.

    Raises:
        UserError: ``uncertainty`` or ``coupling`` is another than the neutral one, and would be without effect.
    """
    own = config["objective"]
    for group, neutral in NEUTRAL.items():
        chosen = config.get(group) or {}
        if chosen.get("_target_") not in (None, f"dfm.{neutral}") and chosen not in own.values():
            raise UserError(
                f"{group}: {chosen['_target_']} has no effect, as {own['_target_']} takes none; "
                f"allowed: {group}={neutral.rpartition('.')[2].lower()}, or another objective"
            )


def sampler(config: Config, trust: Sequence[str]) -> Sampler:
    """The sampler, with its stepper and grid."""
    return _expect(build(config["sampler"], "sampler", trust), Sampler, "sampler")


def guidance(config: Config, trust: Sequence[str]) -> Guidance:
    """How to guide the denoiser."""
    return _expect(build(config["guidance"], "guidance", trust), Guidance, "guidance")


def task(config: Config, trust: Sequence[str]) -> Task:
    """The inverse problem."""
    return _expect(build(config["task"], "task", trust), Task, "task")


def dequantization(config: Config, trust: Sequence[str]) -> Dequantization:
    """How integer levels become real numbers."""
    return _expect(
        build({**ABSENT, **config}["dequantization"], "dequantization", trust), Dequantization, "dequantization"
    )


def likelihood(config: Config, trust: Sequence[str]) -> Likelihood | Several:
    """The likelihood estimator, or all of them."""
    found = build(config["likelihood"], "likelihood", trust)
    return found if isinstance(found, Several) else _expect(found, Likelihood, "likelihood")


def features(config: Config, data: Dataset, device: torch.device, trust: Sequence[str]) -> Features:
    """In which numbers examples of a data set are compared."""
    return _expect(build(config["features"], "features", trust, data=data, device=device), Features, "features")


def flow(config: Config, trust: Sequence[str]) -> OdeFlow:
    """How encode and decode follow the ODE."""
    return _expect(build(config["flow"], "flow", trust), OdeFlow, "flow")


def _expect(found: Any, kind: type, where: str) -> Any:
    if not isinstance(found, kind):
        raise UserError(f"{where}: a {type(found).__name__}; allowed: a {kind.__name__}")
    return found
