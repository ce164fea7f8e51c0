"""The training examples that are nearest to each sample: does a model draw anew, or repeat what it saw?"""

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.numbers.units import to_model
from dfm.data.spec import DatasetSpec
from dfm.data.split import Split


def nearest(queries: Tensor, split: Split, spec: DatasetSpec, k: int = 1) -> tuple[Tensor, Tensor]:
    """Return the Euclidean distances to the k nearest examples of a split, and their numbers in it.

    Distances are of levels, or of real numbers as the model sees them, so that no column outweighs the others by its
    unit. The split is read in blocks.

    Args:
        queries: (M, *D), in the form of ``Split.take``.
        k: at most the number of examples.

    Returns:
        Distances float64 (M, k), the smallest first, and numbers int64 (M, k).

    Raises:
        UserError: the split has fewer than k examples.
    """
    if not 1 <= k <= len(split):
        raise UserError(f"{k} nearest examples of {len(split)}; allowed: 1 to {len(split)}")
    points = _flat(queries, spec)
    centre = points.mean(0)
    distances, numbers = torch.empty(len(points), 0, dtype=torch.float64), torch.empty(len(points), 0, dtype=torch.long)
    for first, block in split.blocks():
        others = _flat(block, spec)
        # products are fast, and right enough to choose by; the differences then tell how far
        rough = torch.cdist(points - centre, others - centre, compute_mode="use_mm_for_euclid_dist")
        chosen = rough.topk(min(k, len(others)), largest=False).indices
        exact = (points[:, None] - others[chosen]).square().sum(2).sqrt()
        distances, numbers = torch.cat([distances, exact], 1), torch.cat([numbers, chosen + first], 1)
        order = distances.argsort(dim=1, stable=True)[:, :k]
        distances, numbers = distances.gather(1, order), numbers.gather(1, order)
    return distances, numbers


def _flat(values: Tensor, spec: DatasetSpec) -> Tensor:
    return (values if spec.levels is not None else to_model(values, spec)).flatten(1).double()
