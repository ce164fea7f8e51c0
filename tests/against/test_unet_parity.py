"""The U-Net against diffusers and the ADM U-Net of torchcfm, with their weights copied in."""

import math

import pytest
import torch
from support.unet_cases import Options, error, inputs, preset, randomise, unet
from support.unet_weights import copy_adm, copy_diffusers
from torch import nn

# What both packages share: sinusoids of a time that is not ours, cosines first.
THEIR_TIME: Options = {"time_scale": 1.0, "max_period": 10000.0, "frequency_shift": 0.0, "flip_sin_to_cos": True}

DOWN, ATTN_DOWN, RES_DOWN = "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"
UP, ATTN_UP, RES_UP = "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"
DIFFUSERS_CASES: dict[str, tuple[tuple[int, ...], Options, Options]] = {
    # name: (shape, diffusers' options, ours)
    "plain": ((3, 8, 8), {"layers_per_block": 2, "attention_head_dim": None}, {"blocks_per_level": 2}),
    "ddpm": (
        (1, 8, 12),
        {
            "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
            "attention_head_dim": None, "dropout": 0.1,
        },
        {"downsample_padding": 0, "flip_sin_to_cos": False, "frequency_shift": 1.0, "norm_eps": 1e-6, "dropout": 0.1},
    ),
    "heads": ((3, 12, 8), {"attention_head_dim": 4}, {"head_channels": 4}),
    "scale_shift": (
        (3, 8, 8),
        {"resnet_time_scale_shift": "scale_shift", "attention_head_dim": 8, "num_class_embeds": 5},
        {"scale_shift": True, "head_channels": 8, "mid_attention_groups": 0},
    ),
    "mid_groups": (
        (1, 8, 8),
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 2, "mid_block_scale_factor": math.sqrt(2)},
        {"scale_shift": True, "mid_attention_groups": 2, "mid_scale_factor": math.sqrt(2), "head_channels": 8},
    ),
    "resnet": (
        (3, 8, 8),
        {
            "down_block_types": (RES_DOWN, ATTN_DOWN, DOWN), "up_block_types": (RES_UP, ATTN_UP, UP),
            "downsample_type": "resnet", "upsample_type": "resnet", "block_out_channels": (16, 16, 32),
        },
        {"downsample": "resblock", "upsample": "resblock", "channel_multipliers": (1, 1, 2), "head_channels": 8},
    ),
    "mixed": (  # only diffusers' blocks with attention heed downsample_type
        (1, 8, 16),
        {
            "down_block_types": (DOWN, ATTN_DOWN, DOWN), "up_block_types": (UP, ATTN_UP, UP),
            "downsample_type": "resnet", "upsample_type": "resnet", "block_out_channels": (16, 24, 32),
        },
        {
            "downsample": ("conv", "resblock"), "upsample": ("resblock", "conv"),
            "channel_multipliers": (1, 1.5, 2), "head_channels": 8,
        },
    ),
    "classes": (
        (3, 8, 8),
        {"num_class_embeds": 7, "time_embedding_dim": 24, "add_attention": False},
        {"time_channels": 24, "mid_attention": False, "head_channels": 8},
    ),
    "uneven": (
        (3, 8, 8),
        {"down_block_types": (DOWN, DOWN), "up_block_types": (UP, ATTN_UP), "mid_block_type": None},
        {"attention_levels": (), "up_attention_levels": (0,), "mid_block": False, "head_channels": 8},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFUSERS_CASES)
def test_equals_diffusers_on_its_weights(case: str) -> None:
    shape, theirs, ours = DIFFUSERS_CASES[case]
    diffusers = pytest.importorskip("diffusers")
    standard = {
        "block_out_channels": (16, 32), "down_block_types": (DOWN, ATTN_DOWN), "up_block_types": (ATTN_UP, UP),
        "layers_per_block": 1, "norm_num_groups": 8,
    }  # fmt: skip
    reference = diffusers.UNet2DModel(in_channels=shape[0], out_channels=shape[0], **{**standard, **theirs}).eval()
    randomise(reference)
    classes = theirs.get("num_class_embeds", 0)
    model = unet(shape, classes, **{"channels": 16, "groups": 8, **THEIR_TIME, **ours})
    copy_diffusers(reference.state_dict(), model)

    x, c_time = inputs(shape)
    label = torch.tensor([0, classes - 1, 2]) if classes else None
    with torch.no_grad():
        expected = reference.double()(x.double(), c_time.double(), class_labels=label).sample
        assert error(model.double()(x.double(), c_time.double(), label), expected) < 1e-5


ADM_CASES: dict[str, tuple[tuple[int, ...], Options, Options]] = {
    # name: (shape, ADM's options, ours)
    "plain": ((3, 8, 8), {"num_res_blocks": 2}, {"blocks_per_level": 2}),
    "legacy_heads": ((1, 8, 12), {"num_heads": 4}, {"num_heads": 4}),
    "new_heads": (
        (3, 12, 8),
        {"num_head_channels": 16, "use_new_attention_order": True, "attention_resolutions": (1, 2)},
        {"head_channels": 16, "attention_levels": (0, 1)},
    ),
    "resblock_updown": (
        (1, 8, 16),
        {
            "resblock_updown": True, "use_scale_shift_norm": True, "channel_mult": (1, 2, 3), "model_channels": 32,
            "num_head_channels": 32, "attention_resolutions": (2, 4), "num_classes": 5,
        },
        {
            "downsample": "resblock", "upsample": "resblock", "scale_shift": True, "channel_multipliers": (1, 2, 3),
            "channels": 32, "head_channels": 32, "attention_levels": (1, 2),
        },
    ),
    "classes": (
        (3, 8, 8),
        {"num_classes": 7, "conv_resample": False, "dropout": 0.1},
        {"downsample": "pool", "upsample": "nearest", "dropout": 0.1},
    ),
    "narrow_start": (
        (3, 8, 8),
        {"channel_mult": (0.5, 1), "model_channels": 128, "use_scale_shift_norm": True},
        {"channel_multipliers": (0.5, 1), "channels": 128, "scale_shift": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ADM_CASES)
def test_equals_adm_on_its_weights(case: str) -> None:
    shape, theirs, ours = ADM_CASES[case]
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    standard = {
        "image_size": shape[2], "model_channels": 64, "channel_mult": (1, 2), "num_res_blocks": 1,
        "attention_resolutions": (2,),
    }  # fmt: skip
    reference = adm.UNetModel(in_channels=shape[0], out_channels=shape[0], **{**standard, **theirs})
    check_adm(reference, shape, {**theirs}, {"channels": 64, "groups": 32, **ours})


def test_equals_the_wrapper_that_torchcfm_trains_on_cifar10() -> None:
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    shape = (3, 32, 32)
    reference = adm.UNetModelWrapper(
        dim=shape, num_res_blocks=1, num_channels=64, channel_mult=[1, 2, 2, 2],
        num_heads=4, num_head_channels=64, attention_resolutions="16", dropout=0.1,
    )  # fmt: skip
    ours = {"channels": 64, "channel_multipliers": (1, 2, 2, 2), "head_channels": 64, "groups": 32, "dropout": 0.1}
    check_adm(reference, shape, {}, ours)


def check_adm(reference: nn.Module, shape: tuple[int, ...], theirs: Options, ours: Options) -> None:
    """Equal outputs in float32, which is all that ADM computes in."""
    reference.eval()
    randomise(reference)
    classes = theirs.get("num_classes", 0)
    model = unet(shape, classes, **{**THEIR_TIME, **ours})
    copy_adm(reference.state_dict(), model, new_attention_order=theirs.get("use_new_attention_order", False))
    x, c_time = inputs(shape)
    label = torch.tensor([0, classes - 1, 2]) if classes else None
    with torch.no_grad():
        assert error(model(x, c_time, label), reference(c_time, x, label)) < 1e-5


def test_the_comparison_would_notice_a_wrong_order_of_heads() -> None:
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    standard = {"image_size": 8, "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1}
    reference = adm.UNetModel(in_channels=1, out_channels=1, attention_resolutions=(2,), num_heads=4, **standard)
    with pytest.raises(AssertionError):
        check_adm(
            reference, (1, 8, 8), {"use_new_attention_order": True}, {"channels": 32, "groups": 32, "num_heads": 4}
        )


def test_the_preset_has_the_parameters_of_torchcfms_cifar10_network() -> None:
    adm = pytest.importorskip("torchcfm.models.unet.unet")
    with torch.device("meta"):
        theirs = adm.UNetModelWrapper(
            dim=(3, 32, 32), num_res_blocks=2, num_channels=128, channel_mult=[1, 2, 2, 2],
            num_heads=4, num_head_channels=64, attention_resolutions="16", dropout=0.1,
        )  # fmt: skip
    assert preset("unet", (3, 32, 32)) == sum(p.numel() for p in theirs.parameters())
