"""The picture of what the network sees: the examples of the first training batches, drawn as samples are."""

import numpy as np
import torch

from dfm.basics.seeding import STREAMS, Purpose, training_generator
from dfm.data.numbers.dequantization import Dequantization
from dfm.data.numbers.stored_form import stored
from dfm.data.spec import DatasetSpec
from dfm.runs.pictures.decoders import Decoder
from dfm.runs.pictures.drawing import captions_of, enough, picture
from dfm.training.batches import Augmentation, Batch, Batches

CPU = torch.device("cpu")
DECODED = 16  # latents that become pictures: each takes seconds on a CPU


def what_is_seen(
    batches: Batches,
    augmentation: Augmentation,
    dequantization: Dequantization,
    spec: DatasetSpec,
    *,
    n: int | None = None,
    streams: int = STREAMS,
    decoder: Decoder | None = None,
    device: torch.device = CPU,
) -> np.ndarray:
    """Return the examples of the first steps as one picture: mirrored, dequantised, scaled, warped, and as samples are.

    A model with classes has the name of its class under each example.

    Args:
        spec: the data as the model knows them.
        n: how many, at most all; None: as many as suit their shape.
        streams: the version of the streams of random numbers.
        decoder: what makes pictures of latents, at most ``DECODED`` of them.
        device: of the decoder.
    """
    split, examples, labels = batches.split, [], []
    if decoder is not None and decoder.on(device) is not None:
        n = min(DECODED, enough(spec) if n is None else n)
    left, step = min(enough(spec) if n is None else n, len(split)), 0
    while left > 0:
        indices = batches.indices(step)[:left]
        batch = Batch(split.take(indices), split.labels_of(indices), indices)
        batch = augmentation(batch, batches.seed, step, streams)
        generator = training_generator(CPU, batches.seed, step, 0, Purpose.TRAIN, streams)
        data = augmentation.warped(dequantization.model_input(batch.values, spec, generator), batch)
        examples.append(stored(data, spec))
        labels += [] if batch.labels is None else [batch.labels]
        left, step = left - len(indices), step + 1
    captions = captions_of(torch.cat(labels) if labels else None, spec)
    drawn, form = (torch.cat(examples), spec) if decoder is None else decoder.drawn(torch.cat(examples), spec, device)
    return picture(drawn, form, captions=captions)
