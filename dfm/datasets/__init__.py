"""Data to train on and score: each module here is a source, ``configs/dataset/*.yaml`` says how to build it."""

from dfm.datasets.base import SPLITS, Dataset, DatasetSpec, Split, scale_levels

__all__ = ["SPLITS", "Dataset", "DatasetSpec", "Split", "scale_levels"]
