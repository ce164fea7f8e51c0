"""What is learned: data sets, their laws where these are known, and integer levels as real numbers."""

from dfm.data.dataset import Dataset, DatasetSpec, Split
from dfm.data.dequantization import (
    Dequantization,
    ImportanceDequantization,
    TruncatedNormalDequantization,
    UniformDequantization,
)
from dfm.data.digits import Digits
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.data.image_folder import ImageFolder
from dfm.data.mnist_cifar import CIFAR10, MNIST, FashionMNIST
from dfm.data.toys import Checkerboard, EightGaussians, Mixture, Moons, Points, SwissRoll

__all__ = [
    "CIFAR10",
    "FashionMNIST",
    "MNIST",
    "Checkerboard",
    "EightGaussians",
    "Mixture",
    "Moons",
    "Points",
    "SwissRoll",
    "Dataset",
    "DatasetSpec",
    "Split",
    "Dequantization",
    "ImportanceDequantization",
    "TruncatedNormalDequantization",
    "UniformDequantization",
    "Digits",
    "GaussianMixture",
    "ImageFolder",
]
