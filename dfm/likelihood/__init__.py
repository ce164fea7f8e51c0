"""Chapter 5, likelihood: log-densities of examples, by the ODE or by an evidence bound."""

from dfm.likelihood.all_estimators import AllEstimators
from dfm.likelihood.estimator import Likelihood, LogDensity
from dfm.likelihood.evidence_bound import EvidenceBound
from dfm.likelihood.ode import OdeLikelihood

__all__ = [
    "AllEstimators",
    "EvidenceBound",
    "Likelihood",
    "LogDensity",
    "OdeLikelihood",
]
