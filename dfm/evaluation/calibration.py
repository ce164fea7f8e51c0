"""How often a classifier is right, and whether its probabilities are."""

import torch
from torch import Tensor


def accuracy_and_calibration(log_probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[float, float, float]:
    """(accuracy, cross-entropy in nats, expected calibration error) of predictions (n, C) for labels (n,).

    The calibration error is sum_b n_b/n |accuracy_b - confidence_b| over equal bins of confidence, the largest
    probability (Guo et al. 2017, eq. 3). With few examples a calibrated classifier is above zero too.
    """
    confidence, named = log_probabilities.exp().max(1)
    right = (named == labels).to(confidence)
    cross_entropy = -log_probabilities.gather(1, labels[:, None]).mean()
    place = (confidence * bins).long().clamp_max(bins - 1)
    gap = torch.zeros(bins, dtype=confidence.dtype, device=place.device).index_add(0, place, right - confidence)
    return float(right.mean()), float(cross_entropy), float(gap.abs().sum()) / len(labels)
