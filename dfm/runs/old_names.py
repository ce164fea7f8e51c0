"""Today's paths of the classes of dfm 0.1. Old checkpoints, old runs and your own YAML files may still name them."""

from typing import Any

# A key that ends with a dot stands for all classes of a module; a whole path stands for one class with a new name.
MOVED = {
    "dfm.adaptive.": "dfm.sampling.",
    "dfm.consistency.": "dfm.training.",
    "dfm.consistency.Doubling": "dfm.training.DoublingPacing",
    "dfm.consistency.Easy": "dfm.training.EasyPacing",
    "dfm.couplings.": "dfm.training.",
    "dfm.couplings.Independent": "dfm.training.IndependentCoupling",
    "dfm.couplings.LabelAware": "dfm.training.LabelAwareCoupling",
    "dfm.datasets.": "dfm.data.",
    "dfm.datasets.folder.Folder": "dfm.data.ImageFolder",
    "dfm.densities.Cosine": "dfm.training.CosineDensity",
    "dfm.densities.Levels": "dfm.training.DiscreteDensity",
    "dfm.densities.LogNormal": "dfm.training.LogNormalDensity",
    "dfm.densities.LogitNormal": "dfm.training.LogitNormalDensity",
    "dfm.densities.LossAware": "dfm.training.LossAwareDensity",
    "dfm.densities.Uniform": "dfm.training.UniformDensity",
    "dfm.densities.UniformLogNsr": "dfm.training.LogNsrDensity",
    "dfm.dequantization.Importance": "dfm.data.ImportanceDequantization",
    "dfm.dequantization.TruncatedNormal": "dfm.data.TruncatedNormalDequantization",
    "dfm.dequantization.Uniform": "dfm.data.UniformDequantization",
    "dfm.distillation.": "dfm.training.",
    "dfm.features.": "dfm.evaluation.",
    "dfm.flows.OdeFlow": "dfm.sampling.OdeMap",
    "dfm.grids.Cosine": "dfm.sampling.CosineGrid",
    "dfm.grids.Integers": "dfm.sampling.IntegersGrid",
    "dfm.grids.LogNsr": "dfm.sampling.LogNsrGrid",
    "dfm.grids.NoiseShare": "dfm.sampling.NoiseShareGrid",
    "dfm.grids.Quadratic": "dfm.sampling.QuadraticGrid",
    "dfm.grids.Rho": "dfm.sampling.RhoGrid",
    "dfm.grids.Uniform": "dfm.sampling.UniformGrid",
    "dfm.guidance.": "dfm.sampling.",
    "dfm.guidance.ByClassifier": "dfm.sampling.ClassifierGuidance",
    "dfm.guidance.Unguided": "dfm.sampling.NoGuidance",
    "dfm.interpolants.": "dfm.paths.",
    "dfm.inverse.": "dfm.sampling.",
    "dfm.likelihood.": "dfm.likelihood.",
    "dfm.likelihood.Several": "dfm.likelihood.AllEstimators",
    "dfm.loggers.": "dfm.runs.",
    "dfm.loggers.Nothing": "dfm.runs.NoLogger",
    "dfm.meanflow.": "dfm.training.",
    "dfm.models.": "dfm.models.",
    "dfm.models.oracle.Oracle": "dfm.denoising.Oracle",
    "dfm.objectives.": "dfm.training.",
    "dfm.potentials.": "dfm.paths.",
    "dfm.predictions.": "dfm.denoising.",
    "dfm.priors.FromDataset": "dfm.paths.DatasetPrior",
    "dfm.priors.Gaussian": "dfm.paths.GaussianPrior",
    "dfm.priors.Laplace": "dfm.paths.LaplacePrior",
    "dfm.priors.Mixture": "dfm.paths.MixturePrior",
    "dfm.priors.Uniform": "dfm.paths.UniformPrior",
    "dfm.reflow.": "dfm.training.",
    "dfm.samplers.": "dfm.sampling.",
    "dfm.schedules.": "dfm.paths.",
    "dfm.steppers.": "dfm.sampling.",
    "dfm.steppers.Hold": "dfm.sampling.KeepRatio",
    "dfm.trainer_config.": "dfm.training.",
    "dfm.uncertainty.Fixed": "dfm.training.FixedUncertainty",
    "dfm.uncertainty.Learned": "dfm.training.LearnedUncertainty",
    "dfm.weights.Edm": "dfm.training.EdmWeight",
    "dfm.weights.Likelihood": "dfm.training.LikelihoodWeight",
    "dfm.weights.MinSnr": "dfm.training.MinSnrWeight",
    "dfm.weights.NoiseVariance": "dfm.training.NoiseVarianceWeight",
    "dfm.weights.Sigmoid": "dfm.training.SigmoidWeight",
    "dfm.weights.Uniform": "dfm.training.UniformWeight",
}


def current_target(path: str) -> str:
    """Return today's dotted path of a class. A path that never moved is returned unchanged."""
    if path in MOVED:
        return MOVED[path]
    module = ".".join(path.split(".")[:2]) + "."
    return MOVED[module] + path.rpartition(".")[2] if module in MOVED and path.count(".") > 1 else path


def current_config(config: Any) -> Any:
    """Return a configuration in plain containers with today's path in every ``_target_``."""
    if isinstance(config, list):
        return [current_config(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: current_target(value) if key == "_target_" and isinstance(value, str) else current_config(value)
        for key, value in config.items()
    }
