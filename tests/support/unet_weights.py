"""The names of our U-Net's tensors in diffusers' UNet2DModel and in the ADM U-Net (guided-diffusion, torchcfm).

    ours                                diffusers                                     ADM, n blocks a level
    conv_in                             conv_in                                       input_blocks.0.0
    embedding.linear_1, .linear_2       time_embedding.linear_1, .linear_2            time_embed.0, .2
    embedding.table (N + 1 rows)        class_embedding (N)                           label_emb (N)
    down.I.blocks.J                     down_blocks.I.resnets.J                       input_blocks.[1 + I(n+1) + J].0
    down.I.blocks.J.attention           down_blocks.I.attentions.J                    input_blocks.[1 + I(n+1) + J].1
    down.I.resample                     down_blocks.I.downsamplers.0                  input_blocks.[(I+1)(n+1)].0
    mid.0, mid.0.attention, mid.1       mid_block.resnets.0, .attentions.0, ...       middle_block.0, .1, .2
    up.K.blocks.J                       up_blocks.K.resnets.J                         output_blocks.[K(n+1) + J].0
    up.K.blocks.J.attention             up_blocks.K.attentions.J                      output_blocks.[K(n+1) + J].1
    up.K.resample                       up_blocks.K.upsamplers.0                      output_blocks.[K(n+1) + n].[last]
    norm_out, conv_out                  conv_norm_out, conv_out                       out.0, out.2

    block: norm_1, conv_1               norm1, conv1                                  in_layers.0, in_layers.2
      time, shortcut                      time_emb_proj, conv_shortcut                  emb_layers.1, skip_connection
      norm_2, conv_2                      norm2, conv2                                  out_layers.0, out_layers.3
    attention: norm, qkv, out           group_norm, (to_q, to_k, to_v), to_out.0      norm, qkv, proj_out
    resample: conv                      conv                                          op (down), conv (up)

A resample that is a residual block has the names of a block. Our ``qkv`` has the rows of q, then k, then v, each head
by head; ADM's older attention order has q, k, v of the first head, then of the second, and so on.
"""

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dfm.models.unet import UNet

Rules = Sequence[tuple[str, str]]

DIFFUSERS: Rules = (
    (r"^embedding\.linear", "time_embedding.linear"),
    (r"^embedding\.table", "class_embedding"),
    (r"^norm_out", "conv_norm_out"),
    (r"^down\.(\d+)\.resample", r"down_blocks.\1.downsamplers.0"),
    (r"^up\.(\d+)\.resample", r"up_blocks.\1.upsamplers.0"),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.attention", r"\1_blocks.\2.attentions.\3"),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)", r"\1_blocks.\2.resnets.\3"),
    (r"^mid\.0\.attention", "mid_block.attentions.0"),
    (r"^mid\.(\d)", r"mid_block.resnets.\1"),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
    (r"\.(norm|conv)_([12])\.", r".\1\2."),
    (r"\.time\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
)

ADM: Rules = (
    (r"^conv_in", "input_blocks.0.0"),
    (r"^embedding\.linear_1", "time_embed.0"),
    (r"^embedding\.linear_2", "time_embed.2"),
    (r"^embedding\.table", "label_emb"),
    (r"^norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"^mid\.0\.attention", "middle_block.1"),
    (r"^mid\.0", "middle_block.0"),
    (r"^mid\.1", "middle_block.2"),
    (r"\.norm_1\.", ".in_layers.0."),
    (r"\.conv_1\.", ".in_layers.2."),
    (r"\.time\.", ".emb_layers.1."),
    (r"\.norm_2\.", ".out_layers.0."),
    (r"\.conv_2\.", ".out_layers.3."),
    (r"\.shortcut\.", ".skip_connection."),
    (r"\.out\.(weight|bias)$", r".proj_out.\1"),
)


def copy_diffusers(source: dict[str, Tensor], model: UNet) -> None:
    """Fill ``model`` with the state of a UNet2DModel, each tensor of which is used once."""

    def value(name: str, take: Callable[[str], Tensor]) -> Tensor:
        theirs = renamed(name, DIFFUSERS)
        if ".qkv." in theirs:
            return torch.cat([take(theirs.replace(".qkv.", f".to_{part}.")) for part in "qkv"])
        return with_no_label(take(theirs), model) if name.startswith("embedding.table") else take(theirs)

    fill(source, model, value)


def copy_adm(source: dict[str, Tensor], model: UNet, *, new_attention_order: bool) -> None:
    """Fill ``model`` with the state of an ADM U-Net, each tensor of which is used once."""

    def value(name: str, take: Callable[[str], Tensor]) -> Tensor:
        theirs = take(renamed(adm_place(name, model), ADM))
        if name.startswith("embedding.table"):
            return with_no_label(theirs, model)
        attention = re.match(r"(.*)\.(qkv|out)\.", name)
        if attention is None:
            return theirs
        flat = theirs.flatten(1) if theirs.ndim == 3 else theirs  # a convolution of one point is a linear layer
        heads = int(model.get_submodule(attention[1]).heads)  # type: ignore[arg-type]
        return flat if new_attention_order or attention[2] == "out" else heads_inside(flat, heads)

    fill(source, model, value)


def fill(source: dict[str, Tensor], model: UNet, value: Callable[[str, Callable[[str], Tensor]], Tensor]) -> None:
    """Set every tensor of ``model`` to value(name, take), where take(their name) gives each source tensor once."""
    left = dict(source)
    state = {name: value(name, left.pop) for name in model.state_dict()}
    assert not left, f"not copied: {sorted(left)}"
    model.load_state_dict(state)


def renamed(name: str, rules: Rules) -> str:
    """Their name for one of ours, by each rule in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def adm_place(name: str, model: UNet) -> str:
    """The name with its level and block turned into ADM's flat index."""
    match = re.match(r"(down|up)\.(\d+)\.(?:blocks\.(\d+)|resample)(\.attention)?", name)
    if match is None:
        return name
    way, level, block = match[1], int(match[2]), match[3]
    row = getattr(model, way)[level].blocks
    per_level = len(row) + (way == "down")
    index = level * per_level + (int(block) if block else per_level - 1) + (way == "down")
    attended = way == "up" and block is None and hasattr(row[0].attention, "qkv")
    within = int(match[4] is not None) if block or way == "down" else 1 + int(attended)
    rest = name[match.end() :]
    if block is None and way == "down":
        rest = re.sub(r"^\.conv\.", ".op.", rest)
    return f"{'input' if way == 'down' else 'output'}_blocks.{index}.{within}{rest}"


def heads_inside(rows: Tensor, heads: int) -> Tensor:
    """From (head, q k v, channel) to (q k v, head, channel) in the first dimension."""
    return rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def with_no_label(table: Tensor, model: UNet) -> Tensor:
    """Their table of N classes with the row for 'no label' that ours has and theirs has not: what adds nothing."""
    assert model.embedding.table is not None
    missing = model.embedding.table.num_embeddings - len(table)
    return torch.cat([table, table.new_zeros(missing, table.shape[1])])
