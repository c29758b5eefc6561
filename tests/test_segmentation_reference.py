"""Segmentation networks compute what medicai and segmentation_models_pytorch compute (../shared/reference)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_reference_models import assert_close, assert_sampled, keras_weight, read_case, torch_weight

import resnet_rs as rr

MEDICAI = (
    "attunet_resnet18_2d",
    "attunet_resnet18_3d",
    "attunet_resnet50_2d_transpose",
    "attunet_seresnext50_2d_d4",
    "transunet_resnet18_2d",
    "transunet_resnet18_3d",
    "transunet_resnet50_2d",
    "unet_resnet18_2d",
    "unet_resnet18_2d_filters",
    "unet_resnet18_3d",
    "unet_resnet18_3d_transpose_d3",
    "unet_resnet34_2d_group",
    "unet_resnet34_2d_instance",
    "unet_resnet34_2d_layer",
    "unet_resnet34_2d_nonorm",
    "unet_resnet50_2d_transpose",
    "unet_seresnext50_2d_d4",
    "unetpp_resnet18_2d",
    "unetpp_resnet18_3d",
    "unetpp_resnet50_2d_transpose",
    "unetpp_seresnext50_2d_d4",
)


@pytest.mark.parametrize("case", MEDICAI)
def test_medicai(shared: Path, case: str) -> None:
    info, arrays = read_case(shared / "reference" / "models" / f"{case}.npz")
    model = rr.create_model(info["model"], **info["kwargs"])
    # Where the decoder uses fewer levels Keras counts stages of the encoder that nothing uses.
    if info["kwargs"].get("encoder_depth", 5) == 5:
        assert (model.count_params(), model.trainable_params) == (info["params"], info["trainable"])
    weights = {
        path: keras_weight(path, shape, np.random.default_rng([info["seed"], k]))
        for k, (path, shape, _) in enumerate(info["weights"])
    }
    assert model.load_weights(weights).complete
    x = np.random.default_rng([info["seed"], 10**6]).standard_normal((2, *info["kwargs"]["input_shape"]))
    y = model.predict(x.astype(np.float32))
    if "output" in arrays:
        assert_close(y, arrays["output"], float(arrays["output"].std()))
    else:
        assert_sampled(y, arrays, "output", 8192)


@pytest.mark.parametrize(("case", "encoder"), [("smp_unet_resnet34", "resnet34"), ("smp_unet_resnext50", "resnext50")])
def test_segmentation_models_pytorch(shared: Path, case: str, encoder: str) -> None:
    info, arrays = read_case(shared / "reference" / "torch" / f"{case}.npz")
    weights = {
        name: torch_weight(name, shape, np.random.default_rng([info["seed"], k]))
        for k, (name, shape) in enumerate(info["tensors"])
    }
    model = rr.models.UNet(
        encoder_name=encoder,
        input_shape=info["input_shape"][1:],
        data_format="channels_first",
        num_classes=info["kwargs"]["classes"],
        classifier_activation=None,
        head_kernel_size=3,
        decoder_bn_eps=1e-5,
    )
    assert model.load_weights(weights).complete
    assert model.trainable_params == info["params"]
    x = np.random.default_rng([info["seed"], 10**6]).standard_normal(info["input_shape"])
    assert_close(model.predict(x.astype(np.float32)), arrays["output"], float(arrays["output"].std()))


def test_a_file_of_keras(shared: Path) -> None:
    pytest.importorskip("h5py")
    folder = shared / "reference" / "checkpoints"
    encoder = rr.models.ResNetBackbone(
        input_shape=(32, 32, 3), num_filters=[64, 96], num_blocks=[1, 2], num_strides=[1, 2], block_type="basic_block"
    )
    model = rr.models.AttentionUNet(encoder=encoder, encoder_depth=3, num_classes=2, decoder_filters=(32, 16, 8))
    assert model.load_weights(folder / "keras_unet_2d.weights.h5").complete
    with np.load(folder / "keras_unet_2d_expected.npz") as arrays:
        assert_close(model.predict(arrays["x"]), arrays["y"], float(arrays["y"].std()))
