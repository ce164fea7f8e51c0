"""``dfm compare``: the same latents through two models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from dfm import console
from dfm.config import launch, overrides, plain, run_directory, settings
from dfm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


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
    from dfm.commands.arrays import in_batches, save_npz
    from dfm.commands.loaded import loaded
    from dfm.commands.pictures import picture
    from dfm.flows import decode
    from dfm.run_dir import write_json, write_overrides
    from dfm.sampling import check_count, checked_labels, stored
    from dfm.seeding import NumberedDraws
    from dfm.trainer import resolve_device

    if wanted.other is None:
        raise UserError("other= is not given; allowed: a second checkpoint or run directory")
    trust = assemble.trusted(config)
    flow = assemble.flow(config, trust)
    check_count(wanted.n, wanted.batch_size)
    device = resolve_device(wanted.device)
    pair = [loaded(config, name, device, trust) for name in (wanted.ckpt, wanted.other)]
    specs = [found.spec for found, _ in pair]
    if specs[0].shape != specs[1].shape or specs[0].levels != specs[1].levels:
        raise UserError(
            f"ckpt= makes {specs[0].name} {specs[0].shape}, other= {specs[1].name} {specs[1].shape}; "
            "allowed: two models of data of one shape"
        )
    write_overrides(directory, overrides())
    latents = pair[0][1].source.draw(NumberedDraws(wanted.seed, range(wanted.n)), specs[0].shape).float().to(device)
    ends, evaluations = [], []
    for found, denoiser in pair:
        labels = checked_labels(found.spec, None, range(wanted.n))
        end, nfe = in_batches(lambda d, x: decode(d, x, flow), denoiser, latents, labels, wanted.batch_size)
        ends.append(end)
        evaluations.append(nfe)
    made = [stored(end, specs[0]) for end in ends]
    arrays = [images_io.nhwc(m) if specs[0].levels is not None else m.numpy() for m in made]
    save_npz(directory / "samples.npz", {"samples": arrays[0], "other": arrays[1]})
    images_io.save_png(side_by_side(made, specs[0], picture), directory / "grid.png")
    facts = {
        "n": wanted.n, "seed": wanted.seed, "nfe": evaluations, "flow": config["flow"],
        "checkpoints": [str(found.path) for found, _ in pair], **apart(*ends),
    }  # fmt: skip
    write_json(directory / "compare.json", facts)
    console.say(
        f"{wanted.n} latents through two models: root mean square distance {facts['rms_mean']:.4f} (largest "
        f"{facts['rms_max']:.4f}), cosine similarity {facts['cosine_mean']:.4f}: {directory / 'grid.png'}"
    )
    console.say(f"run directory: {directory}")


def apart(first: "Tensor", second: "Tensor") -> dict[str, Any]:
    """Per sample: root mean square distance of a coordinate, and the cosine of the angle about the common mean."""
    from torch.nn.functional import cosine_similarity

    x, y = first.double().flatten(1), second.double().flatten(1)
    distance, middle = (x - y).square().mean(1).sqrt(), (x.mean(0) + y.mean(0)) / 2
    cosine = cosine_similarity(x - middle, y - middle)
    return {
        "rms_mean": float(distance.mean()), "rms_max": float(distance.max()), "cosine_mean": float(cosine.mean()),
    }  # fmt: skip


def side_by_side(made: "list[Tensor]", spec: Any, picture: Any) -> Any:
    """Each image of the first model above that of the second, 8 columns; clouds of points side by side."""
    import numpy as np
    import torch

    if spec.levels is None:
        return np.concatenate([picture(m, spec) for m in made], 1)
    rows = [torch.cat([m[k : k + 8] for m in made]) for k in range(0, len(made[0]) - len(made[0]) % 8, 8)]
    rest = len(made[0]) % 8
    if not rows:
        return picture(torch.cat(made), spec, columns=rest)
    return picture(torch.cat(rows), spec, columns=8)
