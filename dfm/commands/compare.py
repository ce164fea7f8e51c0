"""``dfm compare``: the same latents through two models."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings
from dfm.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from dfm.datasets.base import DatasetSpec


@dataclass(frozen=True)
class CompareSettings:
    """The command's own keys; ``configs/compare.yaml`` says what each is."""

    ckpt: str | None
    other: str | None
    n: int
    seed: int
    batch_size: int
    device: str


def main() -> None:
    """The command."""
    launch("compare", job)


def job(cfg: DictConfig) -> None:
    """Decode the same latents by two models and say how far apart they end."""
    config, directory = plain(cfg), run_directory()
    wanted = settings(config, CompareSettings)
    from dfm import assemble, images_io
    from dfm.commands.arrays import in_batches, prior_of, save_npz
    from dfm.commands.idle import check_flow
    from dfm.commands.loaded import loaded
    from dfm.devices import resolve_device
    from dfm.flows import decode
    from dfm.run_dir import write_json, write_overrides
    from dfm.sampling import check_count, checked_labels, stored
    from dfm.seeding import NumberedDraws

    if wanted.other is None:
        raise UserError("other= is not given; allowed: a second checkpoint or run directory")
    trust = assemble.trusted(config)
    flow = assemble.flow(config, trust)
    check_flow(flow)
    check_count(wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    given = {"ckpt": wanted.ckpt, "other": wanted.other}
    pair = [loaded(config, ckpt, device, trust, key=key) for key, ckpt in given.items()]
    specs = [found.spec for found, _ in pair]
    if specs[0].shape != specs[1].shape or specs[0].levels != specs[1].levels:
        raise UserError(
            f"ckpt= makes {specs[0].name} {specs[0].shape}, other= {specs[1].name} {specs[1].shape}; "
            "allowed: two models of data of one shape"
        )
    priors = [prior_of(found.config) for found, _ in pair]
    if priors[0] != priors[1]:
        raise UserError(
            f"ckpt= has the prior {priors[0]}, other= {priors[1]}; allowed: two models with one prior, since a latent "
            "of the one means nothing to the other"
        )
    write_overrides(directory, overrides())
    latents = pair[0][1].source.draw(NumberedDraws(wanted.seed, range(wanted.n)), specs[0].shape).float().to(device)
    ends, evaluations, began = [], [], time.perf_counter()
    for found, denoiser in pair:
        labels = checked_labels(found.spec, None, range(wanted.n))
        end, nfe = in_batches(lambda d, x: decode(d, x, flow), denoiser, latents, labels, wanted.batch_size)
        ends.append(end)
        evaluations.append(nfe)
    seconds = time.perf_counter() - began
    made = [stored(end, specs[0]) for end in ends]
    arrays = [images_io.nhwc(m) if specs[0].levels is not None else m.numpy() for m in made]
    save_npz(directory / "samples.npz", {"samples": arrays[0], "other": arrays[1]})
    images_io.save_png(side_by_side(made, specs[0]), directory / "grid.png")
    facts = {
        "n": wanted.n, "seed": wanted.seed, "nfe": evaluations, "seconds": seconds, "flow": config["flow"],
        "checkpoints": [str(found.path) for found, _ in pair], **apart(*ends),
    }  # fmt: skip
    write_json(directory / "compare.json", facts)
    cosine = "" if facts["cosine_mean"] is None else f", cosine similarity {facts['cosine_mean']:.4f}"
    console.say(
        f"{wanted.n} latents through two models: root mean square distance {facts['rms_mean']:.4f} (largest "
        f"{facts['rms_max']:.4f}){cosine}: {directory / 'grid.png'}"
    )
    console.say(f"run directory: {directory}")


def apart(first: "Tensor", second: "Tensor") -> dict[str, Any]:
    """Per sample: root mean square distance of a coordinate, and the cosine of the angle about the common mean.

    With one sample the mean is the middle of the pair, and the angle says nothing: None.
    """
    from torch.nn.functional import cosine_similarity

    x, y = first.double().flatten(1), second.double().flatten(1)
    distance, middle = (x - y).square().mean(1).sqrt(), (x.mean(0) + y.mean(0)) / 2
    cosine = float(cosine_similarity(x - middle, y - middle).mean()) if len(x) > 1 else None
    return {"rms_mean": float(distance.mean()), "rms_max": float(distance.max()), "cosine_mean": cosine}


def side_by_side(made: "list[Tensor]", spec: "DatasetSpec") -> "np.ndarray":
    """Two sets of stored samples: each image of the first above that of the second, 8 columns; clouds of points side
    by side. The first ``SHOWN`` images are drawn.
    """
    import numpy as np
    import torch

    from dfm.commands.pictures import picture

    if spec.levels is None:
        clouds = [picture(m, spec) for m in made]
        return np.concatenate([clouds[0], np.full((len(clouds[0]), 2), 128, np.uint8), clouds[1]], 1)
    n = min(SHOWN, len(made[0]))
    columns = min(8, n)
    # the last pair of rows is filled up with the grey of the ground
    filling = torch.full((-n % columns, *spec.shape), 128, dtype=torch.uint8)
    rows = [torch.cat([m[:n], filling]).unflatten(0, (-1, columns)) for m in made]
    return picture(torch.stack(rows, 1).flatten(0, 2), spec, columns)


SHOWN = 200
