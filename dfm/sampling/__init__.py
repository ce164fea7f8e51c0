"""Chapter 4, sampling: from noise to data along an ODE or an SDE."""

from dfm.sampling.adaptive_solver import BogackiShampine, DormandPrince, EmbeddedPair, HeunEuler
from dfm.sampling.classifier_guidance import ClassifierGuidance
from dfm.sampling.grids import (
    CosineGrid,
    Grid,
    IntegersGrid,
    LogNsrGrid,
    NoiseShareGrid,
    QuadraticGrid,
    RhoGrid,
    UniformGrid,
)
from dfm.sampling.guidance import Autoguidance, ClassifierFree, Guidance, Guided, NoGuidance
from dfm.sampling.inverse_problems import Colorize, Inpaint, NoTask, Task, Upsample
from dfm.sampling.ode_flow import OdeMap
from dfm.sampling.samplers import AdaptiveSampler, GridSampler, JumpSampler, Sampler
from dfm.sampling.steppers.base import OdeStepper, Stepper
from dfm.sampling.steppers.exponential import Ddim, DpmSolver2M, DpmSolver3M, UniPC
from dfm.sampling.steppers.ode import RK4, RK5, AdamsBashforth, Euler, Heun, Midpoint
from dfm.sampling.steppers.stochastic import Churn, EulerMaruyama, KeepRatio, PredictorCorrector

__all__ = [
    "RK4",
    "RK5",
    "AdamsBashforth",
    "AdaptiveSampler",
    "Autoguidance",
    "BogackiShampine",
    "Churn",
    "ClassifierFree",
    "ClassifierGuidance",
    "Colorize",
    "CosineGrid",
    "Ddim",
    "DormandPrince",
    "DpmSolver2M",
    "DpmSolver3M",
    "EmbeddedPair",
    "Euler",
    "EulerMaruyama",
    "Grid",
    "GridSampler",
    "Guidance",
    "Guided",
    "Heun",
    "HeunEuler",
    "Inpaint",
    "IntegersGrid",
    "JumpSampler",
    "KeepRatio",
    "LogNsrGrid",
    "Midpoint",
    "NoGuidance",
    "NoTask",
    "NoiseShareGrid",
    "OdeMap",
    "OdeStepper",
    "PredictorCorrector",
    "QuadraticGrid",
    "RhoGrid",
    "Sampler",
    "Stepper",
    "Task",
    "UniPC",
    "UniformGrid",
    "Upsample",
]
