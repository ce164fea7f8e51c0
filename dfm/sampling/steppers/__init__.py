"""Steppers: each makes a move from time t to the earlier time s, and names the order of its error."""

from dfm.sampling.steppers.base import Field, OdeStepper, Stepper, Trajectory
from dfm.sampling.steppers.exponential import Ddim, DpmSolver2M, DpmSolver3M, UniPC
from dfm.sampling.steppers.ode import ODE_STEPPERS, RK4, RK5, AdamsBashforth, Euler, Heun, Midpoint
from dfm.sampling.steppers.stochastic import Churn, EulerMaruyama, KeepRatio, PredictorCorrector

__all__ = [
    "ODE_STEPPERS",
    "RK4",
    "RK5",
    "AdamsBashforth",
    "Churn",
    "Ddim",
    "DpmSolver2M",
    "DpmSolver3M",
    "Euler",
    "EulerMaruyama",
    "Field",
    "Heun",
    "KeepRatio",
    "Midpoint",
    "OdeStepper",
    "PredictorCorrector",
    "Stepper",
    "Trajectory",
    "UniPC",
]
