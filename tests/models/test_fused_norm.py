"""Group norm and silu in one: against torch's own in double precision, to the second derivative."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dfm.models import fused_norm as norms
from dfm.models.blocks import pointwise
from dfm.models.fused_norm import norm_silu
from dfm.models.unet import UNet

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


# ---- torch.func ------------------------------------------------------------------------------------------------------


def all_of_torch_func(
    way: Way, x: Tensor, along: Tensor, norm: nn.GroupNorm, pair: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """What every transform of torch.func gives for silu(norm(x)): all that users compose from them."""
    one, weights = x[:1], along.flip(0)

    def value(x: Tensor, scale: Tensor = pair[0], shift: Tensor = pair[1]) -> Tensor:
        return way(x, norm, (scale, shift))

    def number(x: Tensor) -> Tensor:
        return (value(x) * weights).sum()

    def of_one(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Of one sample, (C, H, W), with a layout that vmap leaves as it is."""
        return value(x[None], scale[None], shift[None]).square().sum()

    def of_parameters(weight: Tensor, bias: Tensor) -> Tensor:
        twin = copy.deepcopy(norm)
        return torch.func.functional_call(Called(way, twin, pair), {"norm.weight": weight, "norm.bias": bias}, (x,))

    def small(x: Tensor) -> Tensor:
        return (way(x, norm, (pair[0][:1], pair[1][:1])) * weights[:1]).sum(1)

    outer = torch.func.grad(lambda x: torch.func.jvp(number, (x,), (along,))[1])(x)
    return [
        torch.func.grad(number)(x),
        torch.func.jvp(value, (x, *pair), (along, *(p.flip(0) for p in pair)))[1],
        torch.func.jvp(value, (x, *pair), (torch.zeros_like(x), pair[1], pair[0]))[1],
        torch.func.vjp(value, x)[1](along)[0],
        *torch.func.vmap(torch.func.grad(of_one, argnums=(0, 1)))(x, *pair),
        torch.func.vmap(torch.func.grad(of_one), in_dims=(None, 0, None))(x[0], pair[0], pair[1][0]),
        torch.func.vmap(lambda v: torch.func.jvp(value, (x,), (v,))[1])(torch.stack([along, weights])),
        torch.func.jacrev(small)(one),
        torch.func.jacfwd(small)(one),
        *torch.func.jacrev(of_parameters, argnums=(0, 1))(norm.weight.detach(), norm.bias.detach()),
        outer,
        torch.func.jvp(torch.func.grad(number), (x,), (along,))[1],
        torch.func.grad(lambda x: torch.func.grad(number)(x).square().sum())(x),
    ]


class Called(nn.Module):
    def __init__(self, way: Way, norm: nn.GroupNorm, pair: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.way, self.norm, self.pair = way, norm, pair

    def forward(self, x: Tensor) -> Tensor:
        return self.way(x, self.norm, self.pair)


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float64, 1e-11), (torch.float32, 2e-4), (torch.bfloat16, 0.0)], ids=str
)
def test_every_transform_is_that_of_torchs_own_norm(
    dtype: torch.dtype, digits: float, own_way_is_taken: list[int]
) -> None:
    """With gradients on. In bf16 torch's own way is taken, and must be taken inside the transforms, too."""
    x, norm, pair = given(dtype)
    x, pair = x.detach(), (pair[0].detach(), pair[1].detach())
    along = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    along = along.to(dtype, memory_format=torch.channels_last)
    ways: tuple[Way, ...] = (norm_silu, plain)
    results = [all_of_torch_func(way, x, along, norm, pair) for way in ways]
    assert bool(own_way_is_taken) is (dtype != torch.bfloat16)
    for number, (mine, theirs) in enumerate(zip(*results, strict=True)):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=digits, atol=digits * float(theirs.detach().abs().max())), number


def test_a_channels_last_network_under_torch_func() -> None:
    """A whole U-Net with gradients on: the Jacobian's product in forward mode against that in reverse mode."""
    torch.manual_seed(0)
    net = UNet(
        shape=(2, 8, 8), channels=8, channel_multipliers=(1, 2), blocks_per_level=1, groups=4, zero_init=False
    ).double()
    net = net.to(memory_format=torch.channels_last)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64).to(memory_format=torch.channels_last)
    time, v, w = torch.zeros(2, dtype=torch.float64), torch.randn_like(x), torch.randn_like(x)
    forward = torch.func.jvp(lambda x: net(x, time, None), (x,), (v,))[1]
    backward = torch.func.vjp(lambda x: net(x, time, None), x)[1](w)[0]
    assert (forward * w).sum().item() == pytest.approx((backward * v).sum().item(), rel=1e-10)
    each = torch.func.vmap(torch.func.grad(lambda x, t: net(x[None], t[None], None).square().sum()))(x, time)
    whole = torch.func.grad(lambda x: net(x, time, None).square().sum())(x)
    assert torch.allclose(each, whole, rtol=1e-9, atol=1e-9)
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        _, twice = torch.func.jvp(torch.func.grad(lambda x: (net(x, time, None) * w).sum()), (x,), (v,))
        back = torch.func.grad(lambda x: (torch.func.vjp(lambda x: net(x, time, None), x)[1](w)[0] * v).sum())(x)
    assert torch.allclose(twice, back, rtol=1e-9, atol=1e-9)
