"""The U-Net on signals, images and volumes: one code, held to the 2-D one, to torch and to brute force."""

import itertools

import pytest
import torch
from support.unet_cases import VARIANTS, error, inputs, randomise, unet
from torch import Tensor
from torch.nn import functional

from dfm.basics.devices import laid_out, recompute
from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.classifiers import ImageClassifier
from dfm.models.dimensions import channels_to_patches, patches_to_channels
from dfm.models.fused_norm import norm_silu
from dfm.models.unet import UNet
from dfm.paths.interpolating import Linear

SHAPES = [(2, 12), (2, 4, 8, 4), (1, 7), (2, 5, 9), (1, 3, 5, 2)]  # the last three are padded
SOME = [(variant, shape) for variant in ("plain", "scale_shift", "resblock") for shape in SHAPES[:3]]
REST = [case for case in itertools.product(VARIANTS, SHAPES) if case not in SOME]
CASES = [*SOME, *(pytest.param(*case, marks=pytest.mark.wide) for case in REST)]


# ---- a network with one side more ------------------------------------------------------------------------------------


def with_one_side_more(lower: UNet, higher: UNet) -> None:
    """Give ``higher`` the weights of ``lower``: its kernels are zero but for the middle row, the kernel of ``lower``.

    Patches bring a factor of channels: conv_in reads the first row of each patch, and conv_out writes all rows alike.
    """
    state, patch = dict(lower.state_dict()), lower.patch
    for name, old in higher.state_dict().items():
        value = state.pop(name)
        if name.startswith("conv_out"):
            value = torch.stack([value.unflatten(0, (lower_channels(lower), -1))] * patch, 1).flatten(0, 2)
        if value.ndim + 1 == old.ndim:
            row = value.unsqueeze(2)
            value = functional.pad(row, (0, 0) * (value.ndim - 2) + (old.shape[2] // 2,) * 2)
        if name == "conv_in.weight":
            split = value.unflatten(1, (lower_channels(lower), 1, -1))
            value = functional.pad(split, (0, 0) * (split.ndim - 3) + (0, patch - 1)).flatten(1, 3)
        old.copy_(value)
    assert not state


def lower_channels(model: UNet) -> int:
    """C of the data: the outputs without their patches."""
    return int(model.conv_out.out_channels) // model.patch ** (model.conv_out.weight.ndim - 2)


@pytest.mark.parametrize("height", [1, 4, pytest.param(3, marks=pytest.mark.wide)])
@pytest.mark.parametrize("shape", [(2, 12), (1, 7), (2, 6, 10)])
@pytest.mark.parametrize(
    ("variant", "patch"),
    [
        ("plain", 1),
        ("three_levels", 2),
        *(pytest.param(v, 1, marks=pytest.mark.wide) for v in VARIANTS if v != "plain"),
    ],
)
def test_data_that_are_constant_along_a_side_are_data_without_it(
    variant: str, patch: int, shape: tuple[int, ...], height: int
) -> None:
    """An image of height 1 and a signal (a volume of depth 1 and an image) get the same from the same weights.

    At every number of resolutions, with every part: a side of length 1 is mirrored to a multiple of the factor, so the
    image is constant along its height, and so is all that the network makes of it.
    """
    lower = unet(shape, patch=patch, **VARIANTS[variant])
    randomise(lower)
    higher = unet((shape[0], height, *shape[1:]), patch=patch, **VARIANTS[variant])
    with_one_side_more(lower, higher)
    x, c_time = inputs(shape)
    with torch.no_grad():
        expected = lower(x, c_time)[:, :, None].expand(-1, -1, height, *[-1] * (len(shape) - 1))
        assert error(higher(x[:, :, None].expand_as(expected), c_time), expected) < 1e-5


def test_their_likelihoods_are_the_same() -> None:
    nats = []
    lower = unet((1, 7), channel_multipliers=(1, 1, 2))
    higher = unet((1, 1, 7), channel_multipliers=(1, 1, 2))
    with_one_side_more(lower, higher)
    x = inputs((1, 7))[0].double()
    for network, data in ((lower, x), (higher, x[:, :, None])):
        spec = DatasetSpec(name="x", shape=tuple(data.shape[1:]), levels=None, num_classes=0, mean=0.0, std=1.0)
        path = Linear()
        denoiser = NetworkDenoiser(
            spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=network.double()
        )
        nats.append(OdeLikelihood(steps=6, divergence="exact").log_density(denoiser, data).value)
    assert nats[0].std() > 0.1
    torch.testing.assert_close(nats[0], nats[1], rtol=1e-9, atol=1e-9)


# ---- each kind of data by itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "shape"), CASES)
def test_every_part_learns_and_a_sample_does_not_depend_on_its_batch(variant: str, shape: tuple[int, ...]) -> None:
    model = unet(shape, num_classes=3, **VARIANTS[variant]).double()
    x, c_time = (t.double() for t in inputs(shape))
    out = model(x, c_time, torch.tensor([0, 1, 2])) + model(x, c_time)
    assert out.shape == x.shape
    out.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-12, name
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1], c_time[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(model(x, c_time), alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_of_torch_func(shape: tuple[int, ...]) -> None:
    """Forward against reverse mode, and the gradient of each sample against that of the batch."""
    net = laid_out(unet(shape, patch=2, scale_shift=True).double(), True)
    x, time = (t.double() for t in inputs(shape))
    v, w = torch.randn_like(x), torch.randn_like(x)
    forward = torch.func.jvp(lambda x: net(x, time), (x,), (v,))[1]
    backward = torch.func.vjp(lambda x: net(x, time), x)[1](w)[0]
    assert (forward * w).sum().item() == pytest.approx((backward * v).sum().item(), rel=1e-9)
    each = torch.func.vmap(torch.func.grad(lambda x, t: net(x[None], t[None]).square().sum()))(x, time)
    whole = torch.func.grad(lambda x: net(x, time).square().sum())(x)
    torch.testing.assert_close(each, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_layout_and_recomputation_change_nothing(shape: tuple[int, ...]) -> None:
    model = unet(shape, **VARIANTS["scale_shift"]).double()
    x, c_time = (t.double() for t in inputs(shape))
    expected = model(x, c_time)
    torch.testing.assert_close(laid_out(model, True)(x, c_time), expected, rtol=1e-9, atol=1e-11)
    recompute(model)
    torch.testing.assert_close(model(x, c_time), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(1, 7), pytest.param((1, 3, 5, 2), marks=pytest.mark.wide)])
def test_compilation_changes_nothing(shape: tuple[int, ...]) -> None:
    """As one graph, without a place where torch falls back to Python."""
    model = unet(shape, channel_multipliers=(1,), attention_levels=(0,), mid_block=False, patch=2)
    x, c_time = inputs(shape)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, c_time), model(x, c_time), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 12), (2, 8, 12), (2, 4, 8, 4), (2, 1, 1, 1)])
def test_the_classifier_takes_each_kind(shape: tuple[int, ...]) -> None:
    model = ImageClassifier(shape=shape, num_classes=3, channels=8, groups=4).eval()
    randomise(model)
    x, c_time = inputs(shape)
    logits = model(x, c_time)
    assert logits.shape == (3, 3)
    assert logits.std(0).min() > 0.01


# ---- patches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [1, 2, 3])
@pytest.mark.parametrize("sides", [(12,), (6, 12), (6, 12, 18)])
def test_a_patch_is_one_place_with_more_channels(sides: tuple[int, ...], patch: int) -> None:
    """Entry by entry: the order of the channels is that of torch's pixel_unshuffle, also where torch has none."""
    x = torch.randn(2, 3, *sides)
    folded = patches_to_channels(x, patch)
    places = list(itertools.product(range(patch), repeat=len(sides)))
    assert folded.shape == (2, 3 * len(places), *(side // patch for side in sides))
    for channel, (i, place) in itertools.product(range(3), enumerate(places)):
        entries = (slice(None), channel, *(slice(start, None, patch) for start in place))
        assert torch.equal(folded[:, channel * len(places) + i], x[entries])
    assert torch.equal(channels_to_patches(folded, patch), x)


# ---- the norm in three dimensions ------------------------------------------------------------------------------------


def test_the_norm_of_volumes_has_a_way_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """In channels_last_3d torch's own is slow on a CPU; values and derivatives are those of torch."""
    from dfm.models import fused_norm

    calls: list[torch.Size] = []
    moments = fused_norm.moments
    monkeypatch.setattr(fused_norm, "moments", lambda x, *more: (calls.append(x.shape), moments(x, *more))[1])
    norm = torch.nn.GroupNorm(2, 4).double()
    randomise(norm)
    x = torch.randn(2, 4, 3, 2, 3, dtype=torch.float64).to(memory_format=torch.channels_last_3d).requires_grad_()
    pair = (torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64))

    def value(x: Tensor) -> Tensor:
        return norm_silu(x, norm, pair)

    scale, shift = (part[:, :, None, None, None] for part in pair)
    torch.testing.assert_close(value(x), functional.silu(norm(x) * (1 + scale) + shift), rtol=1e-11, atol=1e-11)
    assert calls == [x.shape]
    assert value(x).is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.autograd.gradcheck(value, (x,))
    assert torch.autograd.gradgradcheck(value, (x,))
    calls.clear()
    value(x.detach().contiguous())
    assert not calls, "another layout takes torch's"


def test_it_says_which_numbers_of_sides_it_takes() -> None:
    for sides in range(5):
        try:
            UNet(shape=(1, *(4,) * sides), channels=4, channel_multipliers=(1,), attention_levels=(), groups=2)
        except UserError:
            assert not UNet.takes(sides)
        else:
            assert UNet.takes(sides)
