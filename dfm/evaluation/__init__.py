"""The quality of samples, of samplers and of classifiers."""

from dfm.evaluation.classifier_features import ClassifierFeatures, Recipe, features_for
from dfm.evaluation.features import Coordinates, Features
from dfm.evaluation.sample_quality import Quality

__all__ = [
    "ClassifierFeatures",
    "Coordinates",
    "Features",
    "Quality",
    "Recipe",
    "features_for",
]
