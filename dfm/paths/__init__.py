"""Chapter 1, noising: the path x_t = a(t) data + b(t) noise, and the noise at its end."""

from dfm.paths.custom import Custom
from dfm.paths.interpolant_latents import InterpolantLatent, NoLatent, RootLatent
from dfm.paths.interpolating import Linear, Polynomial, Trigonometric, UnitVariance
from dfm.paths.potentials import DoubleWell, Potential
from dfm.paths.priors import DatasetPrior, GaussianPrior, LaplacePrior, MixturePrior, Prior, UniformPrior
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm, RandomWalk, VarianceExploding
from dfm.paths.variance_preserving import Cosine, Ddpm, OrnsteinUhlenbeck, SubVariancePreserving, VariancePreserving

__all__ = [
    "Cosine",
    "Custom",
    "DatasetPrior",
    "Ddpm",
    "DoubleWell",
    "Edm",
    "GaussianPrior",
    "InterpolantLatent",
    "LaplacePrior",
    "Linear",
    "MixturePrior",
    "NoLatent",
    "OrnsteinUhlenbeck",
    "Polynomial",
    "Potential",
    "Prior",
    "RandomWalk",
    "RootLatent",
    "Schedule",
    "SubVariancePreserving",
    "Trigonometric",
    "UniformPrior",
    "UnitVariance",
    "VarianceExploding",
    "VariancePreserving",
]
