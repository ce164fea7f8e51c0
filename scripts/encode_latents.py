"""Encode a folder of pictures into an array of latents, on which dfm trains by ``dataset=array``.

python scripts/encode_latents.py PICTURES DECODER OUT --size 256

PICTURES is what ``dataset=folder`` reads, DECODER the local folder of an AutoencoderKL of diffusers, and OUT gets
``latents.npy``, float32 (N, C, H, W), the mean of each picture's latent, and ``labels.npy``, the names of the classes.
The latents are raw: they are not multiplied by the scaling factor, because dfm scales each channel by itself.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfm.basics.devices import resolve_device
from dfm.data import ImageFolder
from dfm.data.dataset import SPLITS
from dfm.runs import AutoencoderKL


def main(words: Sequence[str] | None = None) -> None:
    """Encode, and say how to train on the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", help="a folder of pictures")
    parser.add_argument("decoder", help="the folder of an AutoencoderKL")
    parser.add_argument("out", type=Path, help="a folder for latents.npy and labels.npy")
    parser.add_argument("--size", type=int, default=256, help="pixels of both sides")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures at a time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    options = parser.parse_args(words)
    device = resolve_device(options.device)
    pictures = ImageFolder(path=options.pictures, size=options.size, validation=0, test=0)
    network: Any = AutoencoderKL(path=options.decoder).network.to(device)
    split = pictures.split(SPLITS[0])
    options.out.mkdir(parents=True, exist_ok=True)
    file, latents = options.out / "latents.npy", None
    for first in range(0, len(split), options.batch_size):
        pixels = split.take(slice(first, first + options.batch_size)).to(device).float()
        with torch.inference_mode():
            z = network.encode(pixels / 127.5 - 1).latent_dist.mode().float().cpu().numpy()
        if latents is None:
            latents = np.lib.format.open_memmap(file, "w+", np.float32, (len(split), *z.shape[1:]))
        latents[first : first + len(z)] = z
    line = f"dfm train dataset=array dataset.path={file}"
    if split.labels is not None:
        names = pictures.class_names or tuple(map(str, range(pictures.num_classes)))
        np.save(options.out / "labels.npy", np.array(names)[split.labels.numpy()])
        line += f" dataset.labels={options.out / 'labels.npy'}"
    print(f"{len(split)} latents of shape {latents.shape[1:] if latents is not None else ()}: {line}")
    print(f"then: dfm sample ckpt=latest decoder=autoencoder_kl decoder.path={options.decoder}")


if __name__ == "__main__":
    main()
