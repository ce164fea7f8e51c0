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
    "AdamsBashforth",
    "Euler",
    "Heun",
    "Midpoint",
    "RK4",
    "RK5",
    "AdaptiveSampler",
    "GridSampler",
    "JumpSampler",
    "Sampler",
    "Autoguidance",
    "ClassifierFree",
    "Guidance",
    "Guided",
    "NoGuidance",
    "BogackiShampine",
    "DormandPrince",
    "EmbeddedPair",
    "HeunEuler",
    "Churn",
    "EulerMaruyama",
    "KeepRatio",
    "PredictorCorrector",
    "ClassifierGuidance",
    "Colorize",
    "Inpaint",
    "NoTask",
    "Task",
    "Upsample",
    "CosineGrid",
    "Grid",
    "IntegersGrid",
    "LogNsrGrid",
    "NoiseShareGrid",
    "QuadraticGrid",
    "RhoGrid",
    "UniformGrid",
    "Ddim",
    "DpmSolver2M",
    "DpmSolver3M",
    "UniPC",
    "OdeMap",
    "OdeStepper",
    "Stepper",
]
