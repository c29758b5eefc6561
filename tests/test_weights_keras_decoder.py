"""Keras names of segmentation networks find their place; those of other networks are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import resnet_rs as rr
from resnet_rs.weights.keras_decoder import torch_layout, torch_names

NAMES = {
    "unet": {
        "stack1_block0_2_conv/kernel": "encoder.layer2.0.conv2.weight",
        "stack1_block0_squeeze_excitation/conv2d_3/kernel": "encoder.layer2.0.se.fc2.weight",
        "stack1_block0_squeeze_excitation/conv2d_2/bias": "encoder.layer2.0.se.fc1.bias",
        "decoder_stage3_conv_2_conv_3D/kernel": "decoder.blocks.0.conv2.0.weight",
        "decoder_stage2_conv_1_norm_3D/moving_variance": "decoder.blocks.1.conv1.1.running_var",
        "decoder_stage1_transpose_conv_3D/bias": "decoder.blocks.2.up.0.bias",
        "decoder_stage1_norm_3D/beta": "decoder.blocks.2.up.1.bias",
        "decoder_stage3_attention_gate/conv3d_9/kernel": "decoder.blocks.0.attention_gate.theta_x.weight",
        "decoder_stage3_attention_gate/conv3d_10/kernel": "decoder.blocks.0.attention_gate.phi_g.weight",
        "decoder_stage3_attention_gate/conv3d_11/bias": "decoder.blocks.0.attention_gate.psi.bias",
        "decoder_stage2_attention_gate/theta_x/kernel": "decoder.blocks.1.attention_gate.theta_x.weight",
        "conv3d_17/kernel": "segmentation_head.0.weight",
    },
    "unet_plus_plus": {
        "conv1_bn/gamma": "encoder.bn1.weight",
        "x_0_2_conv1_conv_2D/kernel": "decoder.blocks.x_0_2.conv1.0.weight",
        "x_1_1_conv2_norm_2D/moving_mean": "decoder.blocks.x_1_1.conv2.1.running_mean",
        "x_1_1_transpose/kernel": "decoder.blocks.x_1_1.up.0.weight",
        "x_1_1_transpose_norm/gamma": "decoder.blocks.x_1_1.up.1.weight",
        "bridge_transpose/bias": "decoder.bridge.up.0.bias",
        "bridge_transpose_norm/beta": "decoder.bridge.up.1.bias",
        "conv2d/bias": "segmentation_head.0.bias",
    },
    "trans_unet": {
        "transunet_vit_patching_and_embedding/patch_embedding/kernel": "transformer.patch_embedding.weight",
        "transunet_vit_patching_and_embedding/position_embedding/embeddings": "transformer.position_embedding.weight",
        "transunet_vit_encoder_block_12/ln_2/gamma": "transformer.blocks.11.norm2.weight",
        "transunet_vit_encoder_block_1/mha/attention_output/kernel": "transformer.blocks.0.attn.proj.weight",
        "transunet_vit_encoder_block_2/mlp/dense_2/kernel": "transformer.blocks.1.mlp.fc1.weight",
        "transunet_vit_encoder_block_2/mlp/dense_3/bias": "transformer.blocks.1.mlp.fc2.bias",
        "learnable_queries/learnable_queries": "decoder.queries.weight",
        "proj_cnn_3/kernel": "decoder.levels.0.proj.0.weight",
        "proj_cnn_group_norm_0/gamma": "decoder.levels.3.proj.1.weight",
        "masked_xattn_level_2/multi_head_attention_2/query/bias": "decoder.levels.2.attn.query.bias",
        "masked_xattn_level_2/mlp_decode/dense_9/kernel": "decoder.levels.2.mlp.fc1.weight",
        "masked_xattn_level_2/mlp_decode/dense_10/kernel": "decoder.levels.2.mlp.fc2.weight",
        "masked_xattn_level_2/layer_normalization_9/gamma": "decoder.levels.2.norm1.weight",
        "masked_xattn_level_2/layer_normalization_10/beta": "decoder.levels.2.norm2.bias",
        "class_prediction/kernel": "decoder.class_prediction.weight",
        "mask_resize/kernel": "decoder.mask_resize.weight",
        "mask_resize/bias": "decoder.mask_resize_bias.weight",
        "decoder_proj_0/kernel": "decoder.proj.weight",
        "decoder_conv_4/kernel": "decoder.blocks.0.conv.weight",
        "decoder_conv_1/bias": "decoder.blocks.3.conv.bias",
        "final_conv/kernel": "segmentation_head.0.weight",
    },
}


@pytest.mark.parametrize("network", NAMES)
def test_names(network: str) -> None:
    assert torch_names(NAMES[network]) == NAMES[network]
    nested = {f"model/{name}:0": ours for name, ours in NAMES[network].items()}
    assert torch_names(nested) == nested


def test_classifiers_are_left_alone() -> None:
    assert torch_names(["conv1_conv/kernel", "stack0_block0_1_conv/kernel", "predictions/bias"]) == {}
    assert torch_names(["conv2d/kernel", "dense/bias"]) == {}
    assert torch_names([]) == {}


@pytest.mark.parametrize(
    ("ours", "shape", "wanted"),
    [
        ("decoder.blocks.0.conv1.0.weight", (3, 3, 8, 4), (4, 8, 3, 3)),
        ("decoder.blocks.0.up.0.weight", (4, 4, 4, 6, 8), (8, 6, 4, 4, 4)),
        ("transformer.blocks.0.attn.query.weight", (12, 3, 5), (15, 12)),
        ("transformer.blocks.0.attn.query.bias", (3, 5), (15,)),
        ("decoder.levels.0.attn.proj.weight", (3, 5, 12), (12, 15)),
        ("decoder.levels.0.attn.proj.bias", (12,), (12,)),
        ("decoder.queries.weight", (1, 7, 12), (7, 12)),
        ("decoder.mask_resize_bias.weight", (9,), (9, 1)),
    ],
)
def test_layouts(ours: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    leaf = "kernel" if ours.endswith("weight") else "bias"
    assert torch_layout(f"layer/{leaf}", ours, np.zeros(shape)).shape == wanted


def test_stages_that_a_decoder_does_not_use_may_be_there() -> None:
    encoder = rr.models.ResNetBackbone(
        input_shape=(16, 16, 3), num_filters=[64, 72], num_blocks=[1, 1], num_strides=[1, 2], block_type="basic_block"
    )
    model = rr.models.UNet(encoder=encoder, encoder_depth=3, decoder_filters=(4, 4, 4))
    weights: dict[str, Any] = {"stack2_block0_1_conv/kernel": np.zeros((3, 3, 72, 80)), "post_bn/gamma": np.ones(80)}
    leaves = {"running_mean": "moving_mean", "running_var": "moving_variance"}
    for name, value in model.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        keras = leaves.get(leaf, {"weight": "kernel" if value.ndim > 1 else "gamma", "bias": "beta"}.get(leaf, leaf))
        if layer.startswith("encoder.layer"):
            _, stage, block, part = layer.replace("layer", "").split(".", 3)
            kind = "conv" if value.ndim > 1 else "bn"
            number = 0 if part.startswith("downsample") else part[-1]
            path = f"stack{int(stage) - 1}_block{block}_{number}_{kind}"
        elif layer.startswith("encoder"):
            path = "conv1_conv" if value.ndim > 1 else "conv1_bn"
        elif layer.startswith("decoder"):
            _, _, stage, conv, part = layer.split(".")
            path = f"decoder_stage{3 - int(stage)}_{conv[:-1]}_{conv[-1]}_{'norm' if part == '1' else 'conv'}_2D"
        else:
            path, keras = "conv2d_5", "kernel" if value.ndim > 1 else "bias"
        weights[f"{path}/{keras}"] = np.moveaxis(value, (0, 1), (-1, -2)) if value.ndim > 1 else value
    assert model.load_weights(weights).complete
