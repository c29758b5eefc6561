"""Parameter counts and shapes of every network, as medicai, torchvision and the seed documents state them."""

from __future__ import annotations

import pytest

import resnet_rs as rr

# Class: total (trainable) in 2D (3 channels) and 3D (1 channel), 1000 classes; the same with squeeze-and-excitation.
COUNTS = """
ResNet18     11,699,112 (11,689,512)  33,682,600 (33,673,000)    11,788,192 (11,778,592)  33,771,680 (33,762,080)
ResNet34     21,814,696 (21,797,672)  63,999,656 (63,982,632)    21,975,892 (21,958,868)  64,160,852 (64,143,828)
ResNet50     25,610,152 (25,557,032)  48,257,192 (48,204,072)    28,141,144 (28,088,024)  50,788,184 (50,735,064)
ResNet101    44,654,504 (44,549,160)  87,355,560 (87,250,216)    49,432,216 (49,326,872)  92,133,272 (92,027,928)
ResNet152    60,344,232 (60,192,808)  119,560,360 (119,408,936)  66,973,272 (66,821,848)  126,189,400 (126,037,976)
ResNet50v2   25,594,792 (25,549,352)  48,241,832 (48,196,392)    28,125,784 (28,080,344)  50,772,824 (50,727,384)
ResNet101v2  44,639,144 (44,541,480)  87,340,200 (87,242,536)    49,416,856 (49,319,192)  92,117,912 (92,020,248)
ResNet152v2  60,328,872 (60,185,128)  119,545,000 (119,401,256)  66,957,912 (66,814,168)  126,174,040 (126,030,296)
ResNet50vd   25,629,512 (25,576,264)  48,319,304 (48,266,056)    28,160,504 (28,107,256)  50,850,296 (50,797,048)
ResNet200vd  74,933,064 (74,738,504)  149,527,368 (149,332,808)  83,281,272 (83,086,712)  157,875,576 (157,681,016)
ResNeXt50    25,097,128 (25,028,904)  27,938,984 (27,870,760)    27,628,120 (27,559,896)  30,469,976 (30,401,752)
ResNeXt101   88,994,216 (88,791,336)  110,351,016 (110,148,136)  93,771,928 (93,569,048)  115,128,728 (114,925,848)
"""


def rows() -> list[tuple[str, tuple[int, ...], int, int]]:
    found = []
    for line in COUNTS.split("\n"):
        if not line:
            continue
        name, *numbers = line.replace(",", "").replace("(", " ").replace(")", " ").split()
        totals = [int(number) for number in numbers]
        for k, (kind, shape) in enumerate(
            (kind, shape) for kind in (name, f"SE{name}") for shape in ((224, 224, 3), (64, 64, 64, 1))
        ):
            found.append((kind, shape, totals[2 * k], totals[2 * k + 1]))
    return found


@pytest.mark.parametrize(("name", "shape", "total", "trainable"), rows())
def test_counts(name: str, shape: tuple[int, ...], total: int, trainable: int) -> None:
    model = getattr(rr.models, name)(input_shape=shape)
    assert (model.count_params(), model.trainable_params) == (total, trainable)
    assert model.non_trainable_params == total - trainable
    assert model.name == f"{name}{len(shape) - 1}D"
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize(
    ("depth", "trainable"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_cifar_counts(depth: int, trainable: int) -> None:
    model = rr.create_model(f"resnet{depth}")
    assert model.trainable_params == trainable
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 10)
    assert getattr(rr.models, f"resnet{depth}") is type(model)


def test_seed_backbone() -> None:
    """ResNeXt-101 64x4d in 3D, as the first seed document builds it."""
    backbone = rr.models.ResNetBackbone(
        input_shape=(96, 96, 96, 4),
        num_blocks=[3, 4, 23, 3],
        block_type="bottleneck_block",
        groups=64,
        width_per_group=4,
    )
    assert backbone.count_params() == 92_359_680
    assert backbone.trainable_params == 92_158_849 - 2_049
    assert backbone.output_shape == (None, 3, 3, 3, 2048)


@pytest.mark.parametrize(
    ("name", "channels"), [("ResNet18", (64, 64, 128, 256, 512)), ("SEResNeXt50", (64, 256, 512, 1024, 2048))]
)
def test_pyramid(name: str, channels: tuple[int, ...]) -> None:
    model = getattr(rr.models, name)(input_shape=(96, 96, 96, 4), num_classes=3, classifier_activation=None)
    expected = {f"P{level}": (None, *(3 * (96 >> level,))[:3], c) for level, c in enumerate(channels, 1)}
    assert {level: tensor.shape for level, tensor in model.pyramid_outputs.items()} == expected
    assert repr(model.pyramid_outputs["P1"]) == "<shape=(None, 48, 48, 48, 64)>"


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_without_top(pooling: str | None) -> None:
    model = rr.models.ResNet50v2(input_shape=(64, 96, 3), include_top=False, pooling=pooling)
    assert model.output_shape == ((None, 2, 3, 2048) if pooling is None else (None, 2048))
    assert model.count_params() == 25_594_792 - 2048 * 1000 - 1000


def test_stages_of_any_number() -> None:
    model = rr.models.ResNetBackbone(
        input_shape=(64, 64, 3),
        num_blocks=[1, 1, 1, 1, 1],
        block_type="basic_block",
        num_filters=[64, 96, 128, 160, 192],
        num_strides=[1, 2, 2, 2, 1],
        conv_filters=[16, 24, 64],
        conv_kernel_sizes=[5, 3, 3],
    )
    assert list(model.pyramid_outputs) == ["P1", "P2", "P3", "P4", "P5", "P6"]
    assert model.output_shape == (None, 2, 2, 192)
    names = list(model.parameter_shapes())
    assert names[0] == "conv1.0.weight"
    assert "conv1.6.weight" in names
    assert "bn1.running_var" in names
    assert "layer5.0.downsample.0.weight" in names


def test_names_are_those_of_torchvision() -> None:
    shapes = rr.models.ResNet50().parameter_shapes()
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer1.0.downsample.1.running_mean"] == (256,)
    assert shapes["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["fc.weight"] == (1000, 2048)
    assert len(shapes) == 267  # 53 convolutions, 53 norms of 4, fc of 2
    grouped = rr.models.SEResNeXt50(input_shape=(32, 32, 32, 1)).parameter_shapes()
    assert grouped["layer1.0.conv2.weight"] == (128, 4, 3, 3, 3)
    assert grouped["layer1.0.se.fc1.weight"] == (16, 256, 1, 1, 1)
    assert grouped["layer1.0.se.fc2.bias"] == (256,)
