"""Formulas as text: what they compute, and that nothing else can be written in them; custom schedules by them."""

import math

import pytest
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.custom import Custom
from dfm.paths.formulas import Formula
from dfm.paths.variance_preserving import OrnsteinUhlenbeck


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + t", lambda t: 1 + t),
        ("2^t - t**2/3", lambda t: 2**t - t**2 / 3),
        ("-exp(-t) * sin(pi*t)", lambda t: -math.exp(-t) * math.sin(math.pi * t)),
        ("sqrt(abs(t - 1)) + log(1 + t) + tanh(t)", lambda t: math.sqrt(abs(t - 1)) + math.log(1 + t) + math.tanh(t)),
        ("e", lambda t: math.e),
        ("+3.5e-1", lambda t: 0.35),
    ],
)
def test_formulas_compute_what_python_does(text: str, expected: object) -> None:
    t = torch.tensor([0.1, 0.5, 1.7], dtype=torch.float64)
    value = Formula(text)(t=t)
    assert value.shape == t.shape
    assert value.tolist() == pytest.approx([expected(float(u)) for u in t], rel=1e-12)  # type: ignore[operator]


def test_several_variables_and_gradients() -> None:
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    value = Formula("x1^2 * x2", ("x1", "x2"))(x1=x[:, 0], x2=x[:, 1])
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert gradient.tolist() == [[4.0, 1.0]]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "t.__class__", "(lambda: 1)()", "[t]", "t if t else 1", "open('x')", "'a'",
        "exp(t, t)", "exp", "x", "t < 1", "1 +", "", "t; t", "True", "1j", "exp(*t)", "f'{t}'", "t" + "+t" * 400,
    ],
)  # fmt: skip
def test_all_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        Formula(text, where="schedule.drift")
    assert "\n" not in str(caught.value)


def test_towers_of_powers_do_not_hang() -> None:
    assert float(Formula("9^9^9^9")(t=torch.zeros((), dtype=torch.float64))) == math.inf


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
