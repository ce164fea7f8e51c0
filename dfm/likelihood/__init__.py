"""Log-likelihoods of examples under a model: along the ODE, or by evidence bounds. ``base`` has what they share."""

from dfm.likelihood.base import Budget, Likelihood, LogDensity
from dfm.likelihood.divergence import Divergence, Exact, Hutchinson
from dfm.likelihood.evidence import EvidenceBound
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.several import Several

__all__ = [
    "Budget",
    "Divergence",
    "EvidenceBound",
    "Exact",
    "Hutchinson",
    "Likelihood",
    "LogDensity",
    "OdeLikelihood",
    "Several",
]
