"""Networks: model(x, c_time, label) -> a tensor of the shape of x. They know nothing about diffusion."""

from dfm.models.classifiers import ImageClassifier, PointClassifier
from dfm.models.mlp import MLP
from dfm.models.unet import UNet

__all__ = [
    "MLP",
    "ImageClassifier",
    "PointClassifier",
    "UNet",
]
