"""Networks: model(x, c_time, label) -> a tensor of the shape of x. They know nothing about diffusion."""

from dfm.models.classifiers import ImageClassifier, PointClassifier
from dfm.models.condition import Condition
from dfm.models.mlp import MLP
from dfm.models.unet import UNet

__all__ = [
    "MLP",
    "Condition",
    "ImageClassifier",
    "PointClassifier",
    "UNet",
]
