"""The number of evaluations of each sampler: what docs/groups.md says, and what the papers count."""

import re
from pathlib import Path

import pytest
import torch
from support.oracles import oracle

from dfm.basics.errors import UserError
from dfm.cli.composition.command_line import compose
from dfm.cli.composition.config_dirs import options
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.exact import MixtureDenoiser
from dfm.paths.interpolating import Linear
from dfm.paths.variance_preserving import Ddpm
from dfm.runs.parts import Parts
from dfm.sampling.samplers import GridSampler, Sampler, start

PAGE = (Path(__file__).parents[2] / "docs" / "groups.md").read_text(encoding="utf-8")
COUNTS = dict(re.findall(r"^\| `(\w+)` \| .*? \| (\d*N(?: \+ \d+)?|its own) \| .*\|$", PAGE, re.MULTILINE))


def sampler(name: str, *more: str) -> Sampler:
    return Parts(compose("sample", f"sampler={name}", *more)).sampler


def evaluations(formula: str, n: int) -> int:
    factor, more = re.fullmatch(r"(\d*)N(?: \+ (\d+))?", formula).groups()  # type: ignore[union-attr]
    return int(factor or 1) * n + int(more or 0)


def test_the_page_has_every_sampler() -> None:
    assert set(COUNTS) == set(options("sampler"))


@pytest.mark.parametrize("name", sorted(name for name, count in COUNTS.items() if count != "its own"))
def test_the_count_is_the_one_of_the_page(name: str, mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, Linear())
    for n in (5, 8):
        state = sampler(name).with_steps(n).run(denoiser, start(denoiser, 0, range(2)))
        assert state.nfe == evaluations(COUNTS[name], n)


@pytest.mark.parametrize("name", ["ddim", "ancestral"])
def test_a_thousand_steps_are_the_thousand_steps_of_ddpm(name: str, mixture: GaussianMixture) -> None:
    """Ho et al. 2020, algorithm 2: t = T, ..., 1, an evaluation at each, and E[data | x_1] at the end."""
    path = Ddpm()
    denoiser: MixtureDenoiser = oracle(mixture, path)
    chain = sampler(name, "grid=integers", "sampler.steps=1000")
    assert isinstance(chain, GridSampler)
    assert chain.time_grid(denoiser).tolist() == list(range(1000, 0, -1))
    assert chain.run(denoiser, start(denoiser, 0, range(2))).nfe == 1000
    with pytest.raises(UserError, match=r"at most 1000, .*try sampler.steps=999"):
        chain.with_steps(1001).time_grid(denoiser)


def test_one_step_is_the_denoising(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, Linear())
    x = start(denoiser, 0, range(3), double=True)
    state = sampler("ddim").with_steps(1).run(denoiser, x)
    assert state.nfe == 1
    assert torch.equal(state.x, denoiser.data(x, torch.tensor(denoiser.t_max, dtype=torch.float64)))
    with pytest.raises(UserError, match="steps=0"):
        sampler("ddim").with_steps(0).run(denoiser, x)
