"""A schedule from two formulas: the Ornstein-Uhlenbeck process as text, and what is refused."""

import math

import pytest
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.custom import Custom
from dfm.paths.variance_preserving import OrnsteinUhlenbeck


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_ornstein_uhlenbeck_process_as_text(scale: float) -> None:
    """k = 1, c = s: a = e^-t, b = s sqrt(1 - e^-2t), to 12 digits from 1e-6 to 5."""
    custom = Custom(drift="1", diffusion=str(scale), t_max=5.0)
    t = torch.logspace(-6, math.log10(5.0), 60, dtype=torch.float64)
    exact = OrnsteinUhlenbeck().ab(t)
    found = custom.ab(t)
    assert torch.allclose(found[0], exact[0], rtol=1e-12)
    assert torch.allclose(found[1], scale * exact[1], rtol=1e-12)
    assert torch.allclose(custom.diffusion_squared(t), torch.full_like(t, 2 * scale**2), rtol=1e-6)


def test_numbers_may_stand_for_formulas() -> None:
    t = torch.tensor([0.3, 1.0], dtype=torch.float64)
    one, other = Custom(drift=1, diffusion=0.5).ab(t), Custom(drift="1", diffusion="0.5").ab(t)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def wrong(**keys: object) -> str:
    with pytest.raises(UserError) as caught:
        Custom(**keys)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_messages_say_what_is_wrong_and_where() -> None:
    assert "at t=" in wrong(drift="1/(t-t)")
    assert "diffusion='0' is 0 at t=" in wrong(diffusion="0")
    assert "log(" in wrong(drift="log(t - 1)")
    assert "allowed: 0 < t_min" in wrong(t_min=0.0)


def test_a_schedule_whose_noise_falls_is_refused_where_it_does() -> None:
    class Falling(OrnsteinUhlenbeck):
        def damping(self, t: Tensor) -> Tensor:
            return t * (3 - t)

    with pytest.raises(UserError, match=r"from .* at t=1\.5.* strictly increasing"):
        Falling(t_min=0.1, t_max=2.9)
