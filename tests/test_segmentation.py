"""U-Nets: parameter counts, shapes, names, every argument, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import naive
import resnet_rs as rr
from resnet_rs.models import AttentionUNet, ResNetBackbone, UNet, UNetPlusPlus

SMALL: dict[str, Any] = {"num_classes": 2, "encoder_depth": 3, "decoder_filters": (16, 12, 8)}


def backbone(shape: tuple[int | None, ...] = (32, 48, 3), **options: Any) -> ResNetBackbone:
    """An encoder that takes milliseconds."""
    sizes: dict[str, Any] = {"num_filters": [64, 72], "num_blocks": [1, 1], "num_strides": [1, 2]}
    return ResNetBackbone(input_shape=shape, block_type="basic_block", **{**sizes, **options})


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- parameter counts -------------------------------------------------------------------------------------------------

# Encoder and rank -> counts at depth 5, 4 and 3; one class, 3 channels in 2D and 1 in 3D. None: not known.
UNETS: dict[tuple[str, int], tuple[int | None, ...]] = {
    ("resnet18", 2): (14_339_665, 4_956_897, 2_347_521),
    ("resnet18", 3): (42_622_289, 14_756_833, 7_004_929),
    ("resnet50", 2): (32_576_081, 13_618_913, 4_444_673),
    ("resnet50", 3): (73_245_009, 32_192_481, 11_830_017),
    ("resnext50", 2): (32_063_057, 13_519_585, 4_414_977),
    ("resnext50", 3): (52_926_801, 24_674_273, 10_574_593),
}
TRANSPOSE: dict[tuple[str, int], tuple[int | None, ...]] = {
    ("resnet18", 2): (15_562_305, 5_717_185, 2_864_065),
    ("resnet18", 3): (49_082_689, 18_773_441, 9_733_313),
    ("resnet50", 2): (36_551_233, 15_755_457, 5_649_345),
    ("resnet50", 3): (94_254_401, 43_483_585, 18_195_649),
    ("resnext50", 2): (36_038_209, None, None),
    ("resnext50", 3): (73_936_193, None, None),
}
ATTENTION: dict[tuple[str, int], tuple[int | None, ...]] = {
    ("resnet18", 2): (14_603_253, 5_109_796, 2_438_787),
    ("resnet18", 3): (42_885_877, 14_909_732, 7_096_195),
    ("resnet50", 2): (33_490_933, 14_091_300, 4_683_395),
    ("resnet50", 3): (74_159_861, 32_664_868, 12_068_739),
    ("resnext50", 2): (32_977_909, None, None),
    ("resnext50", 3): (53_841_653, None, None),
}
PLUS_PLUS: dict[tuple[str, int], tuple[int | None, ...]] = {
    ("resnet18", 2): (20_774_337, 8_583_873, 3_565_761),
    ("resnet18", 3): (61_908_673, 25_627_585, 10_656_193),
    ("resnet50", 2): (36_245_953, 16_361_153, 5_441_729),
    ("resnet50", 3): (84_236_993, 40_409_025, 14_817_729),
    ("resnext50", 2): (35_732_929, None, None),
    ("resnext50", 3): (63_918_785, None, None),
}
PLUS_PLUS_TRANSPOSE: dict[tuple[str, int], tuple[int | None, ...]] = {
    ("resnet18", 2): (23_101_665,),
    ("resnet18", 3): (72_849_889,),
    ("resnet50", 2): (39_949_537,),
    ("resnet50", 3): (102_452_705,),
    ("resnext50", 2): (39_436_513,),
    ("resnext50", 3): (82_134_497,),
}
COUNTS = [
    (constructor, options, encoder, rank, 5 - position, count)
    for constructor, options, table in (
        (UNet, {}, UNETS),
        (UNet, {"decoder_block_type": "transpose"}, TRANSPOSE),
        (AttentionUNet, {}, ATTENTION),
        (UNetPlusPlus, {}, PLUS_PLUS),
        (UNetPlusPlus, {"decoder_block_type": "transpose"}, PLUS_PLUS_TRANSPOSE),
    )
    for (encoder, rank), counts in table.items()
    for position, count in enumerate(counts)
    if count is not None
]


@pytest.mark.parametrize(("constructor", "options", "encoder", "rank", "depth", "count"), COUNTS)
def test_parameters(
    constructor: type[UNet], options: dict[str, Any], encoder: str, rank: int, depth: int, count: int
) -> None:
    shape = (64, 64, 3) if rank == 2 else (64, 64, 64, 1)
    model = constructor(encoder_name=encoder, input_shape=shape, encoder_depth=depth, **options)
    assert model.count_params() == count
    assert model.output_shape == (None, *shape[:-1], 1)


def test_parameters_of_the_seed_documents() -> None:
    arguments: dict[str, Any] = {"encoder_name": "resnet18", "input_shape": (96, 96, 96, 4), "num_classes": 3}
    model = UNet(**arguments, classifier_activation="sigmoid")
    assert model.count_params() / 1e6 == 42.688179
    assert model.output.shape == (None, 96, 96, 96, 3)
    assert model.name == "UNet3D"
    assert UNet(**arguments, encoder_depth=4).count_params() / 1e6 == 14.822755


# -- names and numbers ------------------------------------------------------------------------------------------------


def test_names_are_those_of_segmentation_models_pytorch() -> None:
    names = list(UNet(encoder=backbone(), **SMALL, head_kernel_size=3).parameter_shapes())
    assert names[0] == "encoder.conv1.weight"
    assert "encoder.layer1.0.conv1.weight" in names
    decoder = [name for name in names if not name.startswith("encoder.")]
    norm = ["weight", "bias", "running_mean", "running_var"]
    wanted = [
        f"decoder.blocks.{block}.conv{conv}.{part}"
        for block in range(3)
        for conv in (1, 2)
        for part in ("0.weight", *(f"1.{leaf}" for leaf in norm))
    ]
    assert decoder == [*wanted, "segmentation_head.0.weight", "segmentation_head.0.bias"]


def test_names_of_what_others_do_not_have() -> None:
    gated = AttentionUNet(encoder=backbone(), **SMALL).parameter_shapes()
    assert gated["decoder.blocks.0.attention_gate.theta_x.weight"] == (16, 64, 1, 1)
    assert gated["decoder.blocks.0.attention_gate.phi_g.weight"] == (16, 72, 1, 1)
    assert gated["decoder.blocks.0.attention_gate.psi.bias"] == (1,)
    assert not any("blocks.2.attention_gate" in name for name in gated)
    nested = UNetPlusPlus(encoder=backbone(), **SMALL, decoder_block_type="transpose").parameter_shapes()
    assert nested["decoder.blocks.x_1_1.up.0.weight"] == (72, 12, 4, 4)
    assert nested["decoder.blocks.x_0_2.conv1.0.weight"] == (16, 16 + 64 + 16, 3, 3)
    assert nested["decoder.bridge.up.1.running_var"] == (16,)
    assert "decoder.blocks.x_0_1.conv2.0.weight" not in nested


@pytest.mark.parametrize("shape", [(32, 48, 3), (16, 8, 24, 1)])
@pytest.mark.parametrize("constructor", [UNet, AttentionUNet, UNetPlusPlus])
def test_every_normalization_and_block_type_runs(constructor: type[UNet], shape: tuple[int, ...]) -> None:
    encoder, x = backbone(shape), noise(1, *shape)
    outputs = []
    for normalization in ("batch", "sync_batch", "layer", "group", "instance", "unit", False):
        for block_type in ("upsampling", "transpose"):
            model = constructor(
                encoder=encoder,
                **SMALL,
                decoder_normalization=normalization,
                decoder_block_type=block_type,
                decoder_activation="leaky_relu",
            )
            y = model.predict(x)
            assert y.shape == (1, *shape[:-1], 2)
            assert 0 < y.min() < y.max() < 1
            outputs.append((normalization, y))
    # Everything but the two names of one thing differs.
    assert len({y.tobytes() for _, y in outputs}) == len(outputs) - 2


def test_biases_only_without_normalization() -> None:
    plain = UNet(encoder=backbone(), **SMALL, decoder_normalization=False).parameter_shapes()
    assert "decoder.blocks.0.conv1.0.bias" in plain and "decoder.blocks.0.conv1.1.weight" not in plain
    instance = UNet(encoder=backbone(), **SMALL, decoder_normalization="instance").parameter_shapes()
    assert not any(name.startswith("decoder.blocks.0.conv1.1") for name in instance)
    assert "decoder.blocks.0.conv1.0.bias" not in instance


def test_head() -> None:
    options: dict[str, Any] = {**SMALL, "encoder": backbone()}
    x = noise(1, 32, 48, 3)
    softmax = UNet(**options, classifier_activation="softmax").predict(x)
    assert np.allclose(softmax.sum(axis=-1), 1, atol=1e-5)
    logits = UNet(**options, classifier_activation=None).predict(x)
    assert np.allclose(1 / (1 + np.exp(-logits)), UNet(**options).predict(x), atol=1e-6)
    assert UNet(**options, head_upsample=(2, 3)).predict(x).shape == (1, 64, 144, 2)
    assert UNet(**options, head_upsample=2.0).output_shape == (None, 64, 96, 2)
    assert UNet(**options, head_upsample=0.5).output_shape == (None, 32, 48, 2)
    assert UNet(**options, head_upsample=(1.3, 0.5)).predict(x).shape == (1, 41, 24, 2)
    enlarged = UNet(**options, head_upsample=2, classifier_activation=None).predict(x)
    assert np.allclose(enlarged, naive.upsample(logits.astype(np.float64), (2, 2), "linear"), atol=1e-5)


@pytest.mark.parametrize("upsample", [1, 2])
def test_the_last_enlargement_commutes_with_the_head(upsample: int) -> None:
    options: dict[str, Any] = {**SMALL, "encoder": backbone(), "head_upsample": upsample}
    late = UNetPlusPlus(**options)
    early = UNetPlusPlus(**options, head_kernel_size=3)
    state = late.state_dict()
    kernel = np.zeros((2, 16, 3, 3), np.float32)
    kernel[:, :, 1:2, 1:2] = state["segmentation_head.0.weight"]
    early.load_state_dict({**state, "segmentation_head.0.weight": kernel})
    x = noise(2, 32, 48, 3)
    assert np.allclose(late.predict(x), early.predict(x), atol=1e-6)


# -- encoders ---------------------------------------------------------------------------------------------------------


def test_an_encoder_brings_its_weights_and_layout() -> None:
    encoder = backbone((3, 32, 48), data_format="channels_first", seed=5)
    encoder.load_state_dict(encoder.state_dict())
    model = UNet(encoder=encoder, **SMALL)
    assert model.data_format == "channels_first"
    assert model.input_shape == (None, 3, 32, 48) and model.output_shape == (None, 2, 32, 48)
    state = model.state_dict()
    for name, value in encoder.state_dict().items():
        assert np.array_equal(state[f"encoder.{name}"], value)
    x = noise(1, 3, 32, 48)
    levels, own = model.features(x), encoder.features(x)
    assert all(np.array_equal(levels[level], own[level]) for level in ("P1", "P2", "P3"))


def test_an_encoder_by_name_without_case() -> None:
    model = UNet(encoder_name="ResNeXt_50", input_shape=(32, 32, 3), encoder_depth=3)
    assert model.count_params() == UNETS["resnext50", 2][2]


@pytest.mark.parametrize("constructor", [UNet, AttentionUNet, UNetPlusPlus])
@pytest.mark.parametrize("block_type", ["upsampling", "transpose"])
def test_encoders_of_other_strides(constructor: type[UNet], block_type: str) -> None:
    """Levels of equal size are joined without enlargement, a stem without stride needs none at the end."""
    cifar = rr.models.ResNet20(input_shape=(12, 20, 3), include_top=False)
    model = constructor(encoder=cifar, encoder_depth=4, decoder_filters=(8,) * 4, decoder_block_type=block_type)
    assert model.predict(noise(1, 12, 20, 3)).shape == (1, 12, 20, 1)
    dilated = backbone(replace_stride_with_dilation=(False, True))
    assert constructor(encoder=dilated, **SMALL, decoder_block_type=block_type).output_shape == (None, 32, 48, 2)


def test_se_pre_activation_and_pooled_shortcuts_as_encoders() -> None:
    for name in ("seresnet18", "resnet50v2", "resnet50vd"):
        model = UNet(encoder_name=name, input_shape=(32, 32, 3), encoder_depth=4)
        assert model.predict(noise(1, 32, 32, 3)).shape == (1, 32, 32, 1)
        # What only a classifier needs is left out.
        assert not any(part in model.parameter_shapes() for part in ("encoder.norm.weight", "encoder.fc.weight"))


def test_what_is_no_encoder() -> None:
    with pytest.raises(rr.ArgumentError, match="exactly one"):
        UNet(input_shape=(32, 32, 3))
    with pytest.raises(rr.ArgumentError, match="exactly one"):
        UNet(input_shape=(32, 32, 3), encoder=backbone(), encoder_name="resnet18")
    with pytest.raises(rr.ArgumentError, match="input_shape"):
        UNet(encoder_name="resnet18")
    with pytest.raises(rr.UnknownNameError, match="resnet18"):
        UNet(encoder_name="resnet1", input_shape=(32, 32, 3))
    with pytest.raises(rr.ArgumentError, match="encoder_name"):
        UNet(encoder_name="unet", input_shape=(32, 32, 3))
    with pytest.raises(rr.ArgumentError, match="P4"):
        UNet(encoder=backbone(), encoder_depth=4)
    with pytest.raises(rr.ArgumentError, match="input_shape"):
        UNet(encoder=backbone(), **SMALL, input_shape=(32, 40, 3))
    with pytest.raises(rr.ArgumentError, match="data_format"):
        UNet(encoder=backbone(), **SMALL, data_format="channels_first")
    with pytest.raises(rr.ArgumentError, match="encoder"):
        UNet(encoder="resnet18", **SMALL)  # type: ignore[arg-type]


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_sizes_that_do_not_fit_name_the_nearest() -> None:
    with pytest.raises(
        rr.ShapeError, match=r"multiples of \(32, 32\), got \(33, 96\); nearest: height 32 or 64, width 96"
    ):
        UNet(encoder_name="resnet18", input_shape=(33, 96, 3))
    with pytest.raises(rr.ShapeError, match=r"depth 8, height 8 or 16, width 16; or pad"):
        UNet(encoder=backbone((7, 12, 16, 1)), **SMALL)
    model = UNet(encoder=backbone((None, None, 3)), **SMALL)
    assert model.output_shape == (None, None, None, 2)
    assert model.predict(noise(1, 24, 40, 3)).shape == (1, 24, 40, 2)
    with pytest.raises(rr.ShapeError, match="height 24 or 32, width 40"):
        model.predict(noise(1, 25, 40, 3))


@pytest.mark.parametrize("constructor", [UNet, AttentionUNet, UNetPlusPlus])
def test_padding_pads_and_crops(constructor: type[UNet]) -> None:
    padded = constructor(encoder=backbone((None, None, 3)), **SMALL, pad="auto")
    plain = constructor(encoder=backbone((None, None, 3)), **SMALL)
    x = noise(1, 24, 40, 3)
    assert np.array_equal(padded.predict(x), plain.predict(x))
    whole = np.zeros((1, 24, 40, 3), np.float32)
    whole[:, :21, :33] = x[:, :21, :33]
    assert np.array_equal(padded.predict(x[:, :21, :33]), plain.predict(whole)[:, :21, :33])


def test_padding_in_3d_with_an_enlarged_head() -> None:
    model = UNet(encoder=backbone((11, 20, 9, 1)), **SMALL, pad="auto", head_upsample=(2, 1.5, 1))
    assert model.output_shape == (None, 22, 30, 9, 2)
    assert model.predict(noise(2, 11, 20, 9, 1)).shape == (2, 22, 30, 9, 2)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_depth": 2}, "encoder_depth"),
        ({"encoder_depth": 6}, "encoder_depth"),
        ({"decoder_filters": (8, 8)}, "decoder_filters: expected 3 or more"),
        ({"decoder_filters": (8, 8, 0)}, "decoder_filters"),
        ({"decoder_block_type": "transposed"}, "did you mean 'transpose'"),
        ({"decoder_normalization": "batchnorm"}, "decoder_normalization"),
        ({"decoder_normalization": True}, "decoder_normalization"),
        ({"decoder_activation": "softmax"}, "decoder_activation"),
        ({"classifier_activation": "sigmoidal"}, "classifier_activation"),
        ({"num_classes": 0}, "num_classes"),
        ({"head_upsample": 0}, "head_upsample"),
        ({"head_upsample": (2, -1)}, "head_upsample"),
        ({"head_upsample": (2, 2, 2)}, "head_upsample"),
        ({"head_upsample": "2"}, "head_upsample"),
        ({"head_kernel_size": 2}, "head_kernel_size"),
        ({"decoder_bn_eps": -1.0}, "decoder_bn_eps"),
        ({"pad": "reflect"}, "pad"),
        ({"name": 3}, "name"),
    ],
)
def test_arguments_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(rr.ArgumentError, match=message):
        UNet(**{**SMALL, "encoder": backbone(), **options})


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(rr.UnknownArgumentError, match="decoder_use_batchnorm"):
        AttentionUNet(encoder=backbone(), decoder_use_batchnorm=True)
    with pytest.raises(rr.UnknownArgumentError, match="did you mean 'decoder_filters'"):
        rr.create_model("unet", encoder=backbone(), decoder_filter=(8, 8, 8))


@pytest.mark.parametrize("constructor", [UNet, AttentionUNet, UNetPlusPlus])
def test_configuration_round_trip(constructor: type[UNet], tmp_path: Path) -> None:
    x = noise(1, 32, 48, 3)
    for options in (
        {"encoder": backbone()},
        {"encoder_name": "resnet18", "input_shape": (32, 48, 3), "decoder_normalization": "group", "pad": "auto"},
    ):
        model = constructor(**{**SMALL, **options}, head_upsample=(1, 2), name="mine", seed=3)
        config = model.get_config()
        again = rr.Model.from_config(config)
        assert type(again) is constructor and again.get_config() == config
        rr.save(model, tmp_path / "model.safetensors")
        assert np.array_equal(rr.load(tmp_path / "model.safetensors").predict(x), model.predict(x))


def test_registry() -> None:
    text = repr(rr.list_models(family="resnet"))
    for name in ("attention_unet", "trans_unet", "unet", "unet_plus_plus"):
        assert f"• {name} " in text
        assert name in rr.list_models(family="segmentation")
    model = rr.create_model("UNetPlusPlus", encoder=backbone(), **SMALL)
    assert isinstance(model, UNetPlusPlus)
    assert isinstance(rr.create_model("attention-unet", encoder=backbone(), **SMALL), AttentionUNet)


def test_threads_change_no_bit() -> None:
    model = AttentionUNet(encoder=backbone((16, 16, 24, 1)), **SMALL, decoder_normalization="group")
    x = noise(2, 16, 16, 24, 1)
    outputs = []
    for threads in (1, 2, 3):
        with rr.num_threads(threads):
            outputs.append(model.predict(x))
    assert all(np.array_equal(outputs[0], other) for other in outputs[1:])
