"""The accuracy of a classifier, and the calibration of its probabilities."""

import torch
from torch import Tensor


def accuracy_and_calibration(log_probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[float, float, float]:
    """Return (accuracy, cross-entropy in nats, expected calibration error) of predictions (n, C) for labels (n,).

    The calibration error is sum_b n_b/n |accuracy_b - confidence_b| over equal bins of confidence, where confidence is
    the largest probability (Guo et al. 2017, eq. 3). With few examples it is above zero even for a calibrated
    classifier.
    """
    confidence, prediction = log_probabilities.exp().max(1)
    right = (prediction == labels).to(confidence)
    cross_entropy = -log_probabilities.gather(1, labels[:, None]).mean()
    bin_of = (confidence * bins).long().clamp_max(bins - 1)
    gap = torch.zeros(bins, dtype=confidence.dtype, device=bin_of.device).index_add(0, bin_of, right - confidence)
    return float(right.mean()), float(cross_entropy), float(gap.abs().sum()) / len(labels)
