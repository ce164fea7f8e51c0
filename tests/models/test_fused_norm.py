"""Group norm and silu in one: against torch's own in double precision, to the second derivative."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dfm.models import fused_norm as norms
from dfm.models.blocks import pointwise
from dfm.models.fused_norm import norm_silu

SHAPE = (3, 8, 5, 4)


def given(dtype: torch.dtype = torch.float64) -> tuple[Tensor, nn.GroupNorm, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = (3 + 2 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)).to(memory_format=torch.channels_last)
    norm = nn.GroupNorm(4, 8, eps=1e-3).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=generator)
    scale, shift = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), norm.to(dtype), (scale.to(dtype), shift.to(dtype))


def plain(x: Tensor, norm: nn.GroupNorm, scale_shift: tuple[Tensor, Tensor] | None) -> Tensor:
    y = functional.group_norm(x, 4, norm.weight, norm.bias, norm.eps)
    if scale_shift is not None:
        y = y * (1 + scale_shift[0][:, :, None, None]) + scale_shift[1][:, :, None, None]
    return functional.silu(y)


Way = Callable[[Tensor, nn.GroupNorm, tuple[Tensor, Tensor] | None], Tensor]


@pytest.fixture(autouse=True)
def own_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The fast way must be what is tested: it counts its calls."""
    calls: list[int] = []
    real = norms.moments

    def counted(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
        calls.append(groups)
        return real(x, groups, eps)

    monkeypatch.setattr(norms, "moments", counted)
    return calls


@pytest.mark.parametrize("timed", [False, True])
def test_values_and_gradients_are_torchs(timed: bool, own_way_is_taken: list[int]) -> None:
    x, norm, pair = given()
    weights = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = [x, *norm.parameters()]
    if timed:
        wanted += [part.requires_grad_() for part in pair]
    results = []
    ways: tuple[Way, ...] = (norm_silu, plain)
    for way in ways:
        y = way(x, norm, pair if timed else None)
        results.append([y, *torch.autograd.grad((y * weights).sum(), wanted)])
    assert len(own_way_is_taken) == 1
    for mine, theirs in zip(*results, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-12)
    assert results[0][0].is_contiguous(memory_format=torch.channels_last), "the layout stays"


def test_without_a_graph_the_values_are_the_same() -> None:
    x, norm, pair = given()
    with torch.no_grad():
        assert torch.allclose(norm_silu(x, norm, pair), plain(x, norm, pair), rtol=1e-12, atol=1e-12)


def test_derivatives_pass_torchs_own_checks() -> None:
    """Numerical differences, of the gradient too: likelihoods of guided models take the gradient of a gradient."""
    x, norm, pair = given()
    both = [part.requires_grad_() for part in pair]

    def value(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return norm_silu(x, norm, (scale, shift))

    assert torch.autograd.gradcheck(value, (x, *both))
    assert torch.autograd.gradgradcheck(value, (x, *both))


def test_many_gradients_in_one_call_are_those_one_by_one() -> None:
    """Exact divergences ask for all rows of a Jacobian at once."""
    x, norm, pair = given()
    y = norm_silu(x, norm, pair)
    probes = torch.randn((6, *SHAPE), dtype=torch.float64)
    (together,) = torch.autograd.grad(y, x, probes, is_grads_batched=True, retain_graph=True)
    for probe, rows in zip(probes, together, strict=True):
        (alone,) = torch.autograd.grad(y, x, probe, retain_graph=True)
        assert torch.allclose(rows, alone, rtol=1e-12, atol=1e-12)


def test_forward_mode_is_that_of_torch() -> None:
    x, norm, pair = given()
    along = torch.randn(SHAPE, dtype=torch.float64)
    with torch.no_grad():
        _, mine = torch.func.jvp(lambda x: norm_silu(x, norm, pair), (x.detach(),), (along,))
        _, theirs = torch.func.jvp(lambda x: plain(x, norm, pair), (x.detach(),), (along,))
    assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10)


def test_a_mean_far_from_zero_costs_no_more_digits_than_in_torch() -> None:
    """At a mean of 1,000 deviations a variance by the difference of squares would be lost."""
    x, norm, _ = given(torch.float32)
    far = (x.detach() + 3000).requires_grad_()
    exact = plain(far.double(), norm.double(), None)
    norm.float()
    mine = (norm_silu(far, norm) - exact).abs().max()
    assert mine < 2e-3, "the input's own rounding is 2.4e-4 of a deviation of 2"


def test_other_layouts_take_torchs_way(own_way_is_taken: list[int]) -> None:
    x, norm, pair = given()
    assert torch.allclose(norm_silu(x.contiguous(), norm, pair), plain(x, norm, pair), rtol=1e-12, atol=1e-12)
    assert not own_way_is_taken


def test_a_linear_layer_at_every_place() -> None:
    layer = nn.Linear(8, 6).double()
    x = given()[0]
    expected = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    assert torch.allclose(pointwise(x, layer), expected, rtol=1e-12, atol=1e-12)
