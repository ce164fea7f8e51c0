"""Paths from data to noise. ``base`` has what they share; a new one is a class, a YAML and a row in the tests."""

from dfm.schedules.base import Coefficients, Schedule
from dfm.schedules.custom import Custom
from dfm.schedules.exploding import Edm, RandomWalk, VarianceExploding
from dfm.schedules.interpolating import Linear, Polynomial, Trigonometric, UnitVariance
from dfm.schedules.preserving import Cosine, Ddpm, OrnsteinUhlenbeck, SubVariancePreserving, VariancePreserving

__all__ = [
    "Coefficients",
    "Cosine",
    "Custom",
    "Ddpm",
    "Edm",
    "Linear",
    "OrnsteinUhlenbeck",
    "Polynomial",
    "RandomWalk",
    "Schedule",
    "SubVariancePreserving",
    "Trigonometric",
    "UnitVariance",
    "VarianceExploding",
    "VariancePreserving",
]
