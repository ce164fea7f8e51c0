"""From a run's configuration to its parts: data set, denoiser, objective, sampler, likelihood."""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, seeded
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.dequantization import Dequantization
from dfm.denoising.exact import MixtureDenoiser
from dfm.denoising.flow_map import flow_map
from dfm.denoising.interpolant import InterpolantDenoiser
from dfm.denoising.langevin import LangevinDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.denoising.predictions import Prediction
from dfm.evaluation.features import Features
from dfm.likelihood.estimator import Estimators
from dfm.models.classifiers import ImageClassifier, PointClassifier
from dfm.models.mlp import MLP
from dfm.models.unet import UNet
from dfm.paths.interpolant_latents import InterpolantLatent, NoLatent
from dfm.paths.potentials import Potential
from dfm.paths.priors import Prior
from dfm.paths.schedule import Schedule
from dfm.runs.build import build, target_of
from dfm.sampling.guidance import Guidance
from dfm.sampling.inverse_problems import Task
from dfm.sampling.ode_flow import OdeMap
from dfm.sampling.samplers import Sampler
from dfm.training.few_steps.meanflow import MeanFlow
from dfm.training.objectives.base import Model, Objective
from dfm.training.objectives.couplings import Coupling, IndependentCoupling
from dfm.training.objectives.uncertainty import FixedUncertainty

Config = dict[str, Any]
CPU = torch.device("cpu")

# What the groups stand at in a configuration that was written before they existed.
ABSENT = {
    "latent": {"_target_": "dfm.paths.NoLatent"},
    "prior": {"_target_": "dfm.paths.GaussianPrior"},
    "coupling": {"_target_": "dfm.training.IndependentCoupling"},
    "dequantization": {"_target_": "dfm.data.UniformDequantization"},
}

# What changes nothing, of the groups that not every objective takes.
NEUTRAL: dict[str, type] = {"uncertainty": FixedUncertainty, "coupling": IndependentCoupling}

# The classifier that goes with a model: it takes of the model's options those that it knows.
CLASSIFIERS: dict[type, type[nn.Module]] = {UNet: ImageClassifier, MLP: PointClassifier}


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
    latent = _expect(build(config["latent"], "latent", trust), InterpolantLatent, "latent")
    outputs = 1 if isinstance(latent, NoLatent) else 2
    learned = objective(config, trust)
    two_times = isinstance(learned, MeanFlow)
    offered = {
        "shape": spec.shape, "num_classes": spec.num_classes, "std": spec.std, "grey_levels": spec.levels,
        "outputs": outputs, "two_times": two_times,
    }  # fmt: skip
    with place, seeded(CPU, int(config["trainer"]["seed"]), 0, 0, Purpose.INITIAL_WEIGHTS):
        network = _expect(build(config["model"], "model", trust, **offered), nn.Module, "model")
    if two_times and "two_times" not in inspect.signature(type(network)).parameters:
        raise UserError("objective=meanflow: this model takes no second time; allowed: model=unet..., or mlp")
    plain = NetworkDenoiser(
        spec=spec, schedule=path, trained_schedule=path, prediction=prediction, network=network,
        prior=_expect(build(config["prior"], "prior", trust), Prior, "prior"),
        independent=_expect(build(config["coupling"], "coupling", trust), Coupling, "coupling").independent
        and learned.independent,
    )  # fmt: skip
    if two_times and outputs == 1 and not isinstance(plain.prior, Potential):
        return flow_map(plain)
    if two_times:
        raise UserError("objective=meanflow learns a velocity; allowed: latent=none, and a prior that is no potential")
    if isinstance(plain.prior, Potential):
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
    kind = CLASSIFIERS.get(target_of(str(given.pop("_target_")), "model", trust))
    if kind is None:
        raise UserError("objective=classifier: of this model none is known; allowed: model=unet..., or mlp for points")
    if config.get("label_dropout"):
        raise UserError("objective=classifier: label_dropout hides what it is to learn; allowed: label_dropout=0")
    known = {name: value for name, value in given.items() if name in inspect.signature(kind).parameters}
    node = {"_target_": f"{kind.__module__}.{kind.__name__}", **known}
    with place, seeded(CPU, int(config["trainer"]["seed"]), 0, 0, Purpose.INITIAL_WEIGHTS):
        network = build(node, "model", trust, shape=spec.shape, num_classes=spec.num_classes)
    path = schedule(config, trust)
    return NoisyClassifier(spec=spec, schedule=path, trained_schedule=path, network=network)


def is_classifier(config: Config, trust: Sequence[str] | None = None) -> bool:
    """Whether a run trained a noisy classifier and not a denoiser."""
    trust = trusted(config) if trust is None else trust
    return (
        getattr(target_of(str(config["objective"].get("_target_")), "objective", trust), "trains", None) == "classifier"
    )


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
        if not chosen or chosen in own.values():
            continue
        if target_of(str(chosen["_target_"]), group, trusted(config)) is not neutral:
            raise UserError(
                f"{group}: {chosen['_target_']} has no effect, as {own['_target_']} takes none; "
                f"allowed: {group}={'fixed' if group == 'uncertainty' else 'independent'}, or another objective"
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


def likelihood(config: Config, trust: Sequence[str]) -> Estimators:
    """The likelihood estimator, or all of them."""
    return _expect(build(config["likelihood"], "likelihood", trust), Estimators, "likelihood")


def features(config: Config, data: Dataset, device: torch.device, trust: Sequence[str]) -> Features:
    """In which numbers examples of a data set are compared."""
    return _expect(build(config["features"], "features", trust, data=data, device=device), Features, "features")


def flow(config: Config, trust: Sequence[str]) -> OdeMap:
    """How encode and decode follow the ODE."""
    return _expect(build(config["flow"], "flow", trust), OdeMap, "flow")


def _expect(found: Any, kind: type, where: str) -> Any:
    if not isinstance(found, kind):
        raise UserError(f"{where}: a {type(found).__name__}; allowed: a {kind.__name__}")
    return found
