"""Chapter 2, denoising: what we know about data and noise at x_t."""

from dfm.denoising.denoiser import Denoiser, EvaluationCount, WrappedDenoiser
from dfm.denoising.exact import EmpiricalDenoiser, MixtureDenoiser, Oracle
from dfm.denoising.flow_map import FlowMapDenoiser
from dfm.denoising.interpolant import InterpolantDenoiser
from dfm.denoising.langevin import LangevinDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.denoising.predictions import Data, Edm, Noise, Prediction, Score, V, Velocity

__all__ = [
    "Data",
    "Denoiser",
    "Edm",
    "EmpiricalDenoiser",
    "EvaluationCount",
    "FlowMapDenoiser",
    "InterpolantDenoiser",
    "LangevinDenoiser",
    "MixtureDenoiser",
    "NetworkDenoiser",
    "Noise",
    "NoisyClassifier",
    "Oracle",
    "Prediction",
    "Score",
    "V",
    "Velocity",
    "WrappedDenoiser",
]
