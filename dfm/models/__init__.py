"""Networks: model(x, c_time, label) -> a tensor of x's shape. They know nothing of diffusion."""

from dfm.models.classifiers import ImageClassifier, PointClassifier
from dfm.models.mlp import MLP
from dfm.models.unet import UNet

__all__ = [
    "MLP",
    "ImageClassifier",
    "PointClassifier",
    "UNet",
]
