"""The picture of what the network sees: the examples of the first training batches, as ``data.png``."""

import numpy as np
import torch

from dfm.basics.seeding import Purpose, training_generator
from dfm.data.numbers.stored_form import stored
from dfm.runs.pictures.drawing import captions_of, enough, picture
from dfm.training.batches import Batch
from dfm.training.trainer import Trainer


def what_is_seen(trainer: Trainer) -> np.ndarray:
    """Return the examples of the first steps as one picture: mirrored, dequantised, scaled, and stored as samples are.

    A model with classes has the name of its class under each example.
    """
    spec, split, cpu = trainer.denoiser.spec, trainer.batches.split, torch.device("cpu")
    examples, labels = [], []
    left, step = min(enough(spec), len(split)), 0
    while left > 0:
        indices = trainer.batches.indices(step)[:left]
        batch = Batch(split.take(indices), split.labels_of(indices), indices)
        batch = trainer.augmentation(batch, trainer.config.seed, step, trainer.streams)
        generator = training_generator(cpu, trainer.config.seed, step, 0, Purpose.TRAIN, trainer.streams)
        data = trainer.dequantization.model_input(batch.values, spec, generator)
        examples.append(stored(data, spec))
        labels += [] if batch.labels is None else [batch.labels]
        left, step = left - len(indices), step + 1
    return picture(torch.cat(examples), spec, captions=captions_of(torch.cat(labels) if labels else None, spec))
