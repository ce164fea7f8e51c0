"""Chapter 3, training: the objectives, and the loop that minimises them."""

from dfm.training.few_steps.consistency import Consistency, DoublingPacing, EasyPacing, Pacing
from dfm.training.few_steps.meanflow import MeanFlow
from dfm.training.few_steps.progressive import Progressive
from dfm.training.few_steps.reflow import Reflow
from dfm.training.few_steps.rounds import TaughtInRounds
from dfm.training.objectives.base import Loss, Objective
from dfm.training.objectives.classification import Classification
from dfm.training.objectives.couplings import (
    Coupling,
    EntropicTransport,
    IndependentCoupling,
    LabelAwareCoupling,
    OptimalTransport,
)
from dfm.training.objectives.densities import (
    CosineDensity,
    Density,
    DiscreteDensity,
    LogitNormalDensity,
    LogNormalDensity,
    LogNsrDensity,
    LossAwareDensity,
    UniformDensity,
)
from dfm.training.objectives.langevin import LangevinMatching
from dfm.training.objectives.loss_weights import (
    EdmWeight,
    LikelihoodWeight,
    LossWeight,
    MinSnrWeight,
    NoiseVarianceWeight,
    SigmoidWeight,
    UniformWeight,
)
from dfm.training.objectives.regression import Interpolation, Regression
from dfm.training.objectives.uncertainty import FixedUncertainty, LearnedUncertainty, Uncertainty
from dfm.training.step_report import StepReport
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig
from dfm.training.warps import GeometricWarp, NoWarp, Warp

__all__ = [
    "Classification",
    "Consistency",
    "CosineDensity",
    "Coupling",
    "Density",
    "DiscreteDensity",
    "DoublingPacing",
    "EasyPacing",
    "EdmWeight",
    "EntropicTransport",
    "FixedUncertainty",
    "GeometricWarp",
    "IndependentCoupling",
    "Interpolation",
    "LabelAwareCoupling",
    "LangevinMatching",
    "LearnedUncertainty",
    "LikelihoodWeight",
    "LogNormalDensity",
    "LogNsrDensity",
    "LogitNormalDensity",
    "Loss",
    "LossAwareDensity",
    "LossWeight",
    "MeanFlow",
    "MinSnrWeight",
    "NoWarp",
    "NoiseVarianceWeight",
    "Objective",
    "OptimalTransport",
    "Pacing",
    "Progressive",
    "Reflow",
    "Regression",
    "SigmoidWeight",
    "StepReport",
    "TaughtInRounds",
    "Trainer",
    "TrainerConfig",
    "Uncertainty",
    "UniformDensity",
    "UniformWeight",
    "Warp",
]
