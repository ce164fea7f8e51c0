"""A picture of samples, whatever they are: a grid of images or a cloud of points."""

import numpy as np
from torch import Tensor

from dfm import images_io
from dfm.datasets.base import DatasetSpec


def picture(samples: Tensor, spec: DatasetSpec, columns: int | None = None) -> np.ndarray:
    """Stored samples (uint8 images or float points) as one picture.

    Points are drawn over mean +- 3 standard deviations, the same window for any model of the same data.
    """
    if spec.levels is not None:
        return images_io.grid(images_io.nhwc(samples), columns)
    return images_io.cloud(samples.numpy(), spec.mean - 3 * spec.std, spec.mean + 3 * spec.std)
