"""In which numbers samples and data are compared: their own coordinates, or what a small classifier sees in them.

The classifier is trained once for a data set and kept, since figures can only be compared in the same features: its
file's name holds a hash of the training data and of the recipe, and ``facts`` states a hash of its weights.
"""

from dfm.features.base import Coordinates, Features, kind_for
from dfm.features.classifier import ClassifierFeatures, Recipe, features_for

__all__ = ["ClassifierFeatures", "Coordinates", "Features", "Recipe", "features_for", "kind_for"]
