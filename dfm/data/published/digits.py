"""Real handwritten digits that come with the package: no download, and minutes of training on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from dfm.data.dataset import SPLITS, Dataset, Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits(Dataset):
    """1,797 images (1, 8, 8) of 17 grey levels 0..16, ten classes; train 1297, validation 200, test 300.

    Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak (1998), UCI Machine Learning Repository,
    doi.org/10.24432/C50P49, CC BY 4.0; see DIGITS.md beside this file. The split is stored with the images and
    stratified by class (``scripts/make_digits.py``). All three splits share the same 13 writers.

    Args:
        flip: whether training may mirror images; most mirrored digits are no digits.
    """

    flip: bool = False

    name = "digits"
    levels = 17
    num_classes = 10

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        return (1, 8, 8)

    def _load(self) -> Mapping[str, Split]:
        with (
            (files("dfm.data.published") / "digits.npz").open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            images = torch.from_numpy(arrays["images"]).unsqueeze(1)
            labels = torch.from_numpy(arrays["labels"]).long()
            split = torch.from_numpy(arrays["split"])
        return {
            name: Split(values=images[split == index], labels=labels[split == index])
            for index, name in enumerate(SPLITS)
        }
