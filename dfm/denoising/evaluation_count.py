"""The count of evaluations of a network."""

from dataclasses import dataclass


@dataclass
class EvaluationCount:
    """The number of samples that a network was evaluated on; divided by the batch size it is the NFE."""

    samples: int = 0
