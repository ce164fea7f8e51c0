"""Accuracy and calibration by hand, and of predictions that are right as often as they say."""

import numpy as np
import pytest
import torch

from dfm.evaluation.calibration import accuracy_and_calibration


def test_calibration_by_hand() -> None:
    """Four predictions: confidences 0.9, 0.9 (one right), 0.6 and 0.6 (both right)."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    accuracy, cross_entropy, calibration = accuracy_and_calibration(p.log(), torch.tensor([0, 1, 0, 1]), bins=10)
    assert accuracy == 0.75
    assert cross_entropy == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.6]).mean())
    assert calibration == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1.0 - 0.6))


def test_predictions_that_are_right_as_often_as_they_say_are_calibrated() -> None:
    """Labels drawn from the predicted probabilities: zero but for the play of 100,000 draws."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(100_000, 4, generator=generator, dtype=torch.float64).pow(3)
    p = p / p.sum(1, keepdim=True)
    labels = torch.multinomial(p, 1, generator=generator)[:, 0]
    _, _, calibration = accuracy_and_calibration(p.log(), labels)
    assert calibration < 0.01
    _, _, sure = accuracy_and_calibration((4 * p.log()).log_softmax(1), labels)
    assert sure > 0.1, "probabilities that say too much are found out"
