"""A move from time t to the earlier time s. Each states its order, the power of the step in its error."""

from dfm.steppers.base import Field, OdeStepper, Stepper, Trip
from dfm.steppers.exponential import Ddim, DpmSolver2M, DpmSolver3M, UniPC
from dfm.steppers.ode import ODE_STEPPERS, RK4, RK5, AdamsBashforth, Euler, Heun, Midpoint
from dfm.steppers.stochastic import Churn, EulerMaruyama, Hold, PredictorCorrector

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
    "Hold",
    "Midpoint",
    "OdeStepper",
    "PredictorCorrector",
    "Stepper",
    "Trip",
    "UniPC",
]
