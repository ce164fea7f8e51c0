"""The data of a user's own that the pages name: small files of that name and kind."""

import shutil
from pathlib import Path

import numpy as np

from support.hub_files import picture, picture_shards

RANDOM = np.random.default_rng(5)


def write_own_data(folder: Path) -> None:
    """Write every file and folder that a command of the pages reads."""
    for kind in ("cat", "dog"):
        for k in range(20):
            path = folder / "PICTURES" / kind / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(k, (64, 64)))
    shutil.copytree(folder / "PICTURES", folder / "FOLDER")
    shutil.make_archive(str(folder / "PICTURES"), "zip", folder / "PICTURES")
    np.save(folder / "signals.npy", RANDOM.normal(size=(60, 2, 32)).astype(np.float32))
    classes = RANDOM.integers(0, 10, 60)
    np.savez(folder / "mnist.npz", x_train=RANDOM.integers(0, 256, (60, 28, 28), np.uint8), y_train=classes)
    rows = [f"{a:.3f},{b:.3f},{kind}" for a, b, kind in zip(RANDOM.normal(size=60), RANDOM.normal(9, 4, 60),
            RANDOM.choice(["rose", "tulip"], 60), strict=True)]  # fmt: skip
    (folder / "flowers.csv").write_text("length,weight,species\n" + "\n".join(rows) + "\n")
    picture_shards(folder / "shards", shards=13, each=3, name="a")
    (folder / "latents").mkdir()
    np.save(folder / "latents" / "latents.npy", RANDOM.normal(size=(60, 4, 4, 4)).astype(np.float32))
    np.save(folder / "latents" / "labels.npy", RANDOM.integers(0, 2, 60))


def write_decoder(
    folder: Path, scale: float = 0.2, shift: float = 0.7, *, channels: int = 4, safe: bool = True
) -> Path:
    """Write a tiny random autoencoder in the format of diffusers."""
    import diffusers
    import torch

    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, norm_num_groups=4, latent_channels=channels, scaling_factor=scale, shift_factor=shift,
    )  # fmt: skip
    network.save_pretrained(str(folder), safe_serialization=safe)
    return folder
