"""Data: the data sets, their exact laws where we know them, and integer pixel levels as real numbers."""

from dfm.data.arrays.array_file import ArrayFile
from dfm.data.dataset import Dataset
from dfm.data.fields.field_mixture import FieldMixture
from dfm.data.fields.gaussian_fields import GaussianFields, Signals, Volumes
from dfm.data.fields.law import Law
from dfm.data.fields.table import Table
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.data.hubs import HuggingFace, WebDataset
from dfm.data.numbers.dequantization import (
    Dequantization,
    ImportanceDequantization,
    TruncatedNormalDequantization,
    UniformDequantization,
)
from dfm.data.pictures import ImageFolder
from dfm.data.published.digits import Digits
from dfm.data.published.mnist_cifar import CIFAR10, MNIST, FashionMNIST
from dfm.data.spec import DatasetSpec
from dfm.data.split import Split
from dfm.data.toys import Checkerboard, EightGaussians, Mixture, Moons, Points, SwissRoll

__all__ = [
    "CIFAR10",
    "MNIST",
    "ArrayFile",
    "Checkerboard",
    "Dataset",
    "DatasetSpec",
    "Dequantization",
    "Digits",
    "EightGaussians",
    "FashionMNIST",
    "FieldMixture",
    "GaussianFields",
    "GaussianMixture",
    "HuggingFace",
    "ImageFolder",
    "ImportanceDequantization",
    "Law",
    "Mixture",
    "Moons",
    "Points",
    "Signals",
    "Split",
    "SwissRoll",
    "Table",
    "TruncatedNormalDequantization",
    "UniformDequantization",
    "Volumes",
    "WebDataset",
]
