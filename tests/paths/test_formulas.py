"""Formulas as text: what they compute, and that nothing else can be written in them."""

import math

import pytest
import torch

from dfm.basics.errors import UserError
from dfm.paths.formulas import Formula


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
