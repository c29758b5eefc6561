"""`weights.match`: names of every scheme find their place, and what does not fit is said in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_rs import weights
from resnet_rs.errors import ArgumentError, DTypeError, WeightsError
from resnet_rs.weights.keras_names import torch_names

Shapes = dict[str, tuple[int, ...]]
Arrays = dict[str, np.ndarray[Any, Any]]


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{leaf}": (channels,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def network(spatial: int = 2, *, squeeze: bool = True, deep: bool = False) -> Shapes:
    """Two stages of one basic block each, in our names."""
    stem: Shapes = {"conv1.weight": (8, 3, *[7] * spatial)}
    if deep:
        stem = {f"conv1.{i}.weight": (8, 3 if i == 0 else 8, *[3] * spatial) for i in (0, 3, 6)}
        stem |= norm("conv1.1", 8) | norm("conv1.4", 8)
    shapes = stem | norm("bn1", 8)
    for stage, (channels, out) in enumerate([(8, 8), (8, 12)], 1):
        block = f"layer{stage}.0"
        shapes |= {f"{block}.conv1.weight": (out, channels, *[3] * spatial)} | norm(f"{block}.bn1", out)
        shapes |= {f"{block}.conv2.weight": (out, out, *[3] * spatial)} | norm(f"{block}.bn2", out)
        if squeeze:
            shapes |= {f"{block}.se.fc1.weight": (2, out, *[1] * spatial), f"{block}.se.fc1.bias": (2,)}
            shapes |= {f"{block}.se.fc2.weight": (out, 2, *[1] * spatial), f"{block}.se.fc2.bias": (out,)}
    shapes |= {"layer2.0.downsample.0.weight": (12, 8, *[1] * spatial)} | norm("layer2.0.downsample.1", 12)
    return shapes | {"fc.weight": (5, 12), "fc.bias": (5,)}


def filled(shapes: Shapes) -> Arrays:
    """Every element of every tensor different, so that no mistake can hide."""
    start, arrays = 0, {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        arrays[name] = np.arange(start, start + size, dtype=np.float32).reshape(shape)
        start += size
    return arrays


def check(tensors: Any, expected: Arrays, **options: Any) -> weights.Report:
    arrays, report = weights.match(tensors, {name: array.shape for name, array in expected.items()}, **options)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
        assert arrays[name].flags.c_contiguous
        assert arrays[name].dtype == np.float32
    assert report.loaded == len(expected)
    return report


def renamed(arrays: Arrays, *pairs: tuple[str, str]) -> Arrays:
    out = {}
    for name, array in arrays.items():
        for old, new in pairs:
            name = name.replace(old, new)
        out[name] = array
    return out


# -- the PyTorch family ---------------------------------------------------------------------------

NET = filled(network())
PLAIN = filled(network(squeeze=False))


def test_our_own_names() -> None:
    for naming in ("auto", "torchvision", "timm", "native"):
        report = check(NET, NET, naming=naming)
        assert report.complete
        assert report.prefix == ""
    assert check(PLAIN, PLAIN).naming == "torchvision"
    assert check(NET, NET).naming == "timm"
    assert check(NET, NET, naming="native").naming == "native"


@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "backbone.", "encoder.", "module.model.", "module.encoder_q.", "_orig_mod.", "net.0.body."],
)
def test_prefixes(prefix: str) -> None:
    tensors = {prefix + name: array for name, array in PLAIN.items()}
    counters = {f"{prefix}bn1.num_batches_tracked": np.array(3)}
    report = check(tensors | counters, PLAIN)
    assert (report.prefix, report.naming, report.complete) == (prefix, "torchvision", True)
    with pytest.raises(WeightsError):
        weights.match(tensors, network(), naming="native")


@given(st.lists(st.from_regex(r"[a-z_0-9]{1,6}", fullmatch=True), max_size=4))
def test_any_prefix(parts: list[str]) -> None:
    prefix = "".join(f"{part}." for part in parts)
    check({prefix + name: array for name, array in PLAIN.items()}, PLAIN)


def test_head_beside_the_backbone() -> None:
    tensors = {(name if name.startswith("fc.") else f"backbone.{name}"): array for name, array in PLAIN.items()}
    assert check(tensors, PLAIN).prefix == "backbone."
    tensors = {
        f"model.{name if name.startswith('fc.') else f'backbone.{name}'}": array for name, array in PLAIN.items()
    }
    assert check(tensors, PLAIN).prefix == "model.backbone."


@pytest.mark.parametrize("head", ["linear", "last_linear", "classifier", "head", "head.fc"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_heads(head: str, prefix: str) -> None:
    check({prefix + name: array for name, array in renamed(PLAIN, ("fc.", f"{head}.")).items()}, PLAIN)


def test_two_heads_are_not_guessed() -> None:
    tensors = renamed(PLAIN, ("fc.", "head.")) | {"classifier.weight": PLAIN["fc.weight"]}
    with pytest.raises(WeightsError) as error:
        weights.match(tensors, network(squeeze=False))
    assert set(error.value.report.missing) == {"fc.weight", "fc.bias"}  # type: ignore[attr-defined]


def test_network_without_a_head() -> None:
    expected = {name: array for name, array in PLAIN.items() if not name.startswith("fc.")}
    with pytest.raises(WeightsError) as error:
        weights.match(PLAIN, {name: array.shape for name, array in expected.items()})
    assert error.value.report.unexpected == ("fc.weight", "fc.bias")  # type: ignore[attr-defined]
    check(PLAIN, expected, strict=False)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_timm_d_variants(prefix: str) -> None:
    """timm's `downsample.0` is a pool without weights; ours may be called either way."""
    ours = filled(network(deep=True))
    theirs = renamed(ours, ("downsample.1", "downsample.2"), ("downsample.0", "downsample.1"))
    tensors = {prefix + name: array for name, array in theirs.items()}
    assert check(tensors, ours).naming == "timm"
    check(tensors, theirs)
    check({prefix + name: array for name, array in ours.items()}, theirs)


def test_squeeze_and_excite_spellings() -> None:
    check(renamed(NET, (".se.", ".se_module.")), NET)
    check(renamed(NET, (".se.fc1", ".se.fc.0"), (".se.fc2", ".se.fc.2")), NET)
    # As dense layers.
    check(
        {
            name: array.reshape(array.shape[:2]) if ".se.fc" in name and array.ndim > 1 else array
            for name, array in NET.items()
        },
        NET,
    )


def test_number_types() -> None:
    for dtype in (np.float64, np.float16, np.int64, ">f4"):
        shapes = {"fc.weight": (2, 3)}
        arrays, _ = weights.match({"fc.weight": np.arange(6).reshape(2, 3).astype(dtype)}, shapes)
        np.testing.assert_array_equal(arrays["fc.weight"], np.arange(6, dtype=np.float32).reshape(2, 3), strict=True)
    arrays, _ = weights.match({"fc.bias": [1, 2]}, {"fc.bias": (2,)})
    assert arrays["fc.bias"].tolist() == [1, 2]
    for value in (np.zeros(2, complex), np.array(["a", "b"]), np.array([{}, {}])):
        with pytest.raises(DTypeError, match=r"fc\.bias"):
            weights.match({"fc.bias": value}, {"fc.bias": (2,)})


# -- Keras ----------------------------------------------------------------------------------------

LEAVES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def keras(arrays: Arrays, *, deep: bool = False, automatic: bool = False, shift: bool = False) -> Arrays:
    """The same weights as medicai's Keras model would give them."""
    out: Arrays = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition(".")
        kernel = array.ndim > 1
        if kernel:
            array = np.ascontiguousarray(np.moveaxis(array, (1, 0), (-2, -1)))
        is_norm = not kernel and layer != "fc" and ".se." not in layer
        leaf = "kernel" if kernel else LEAVES[leaf] if is_norm else "bias"
        parts = layer.split(".")
        if layer == "fc":
            layer = "predictions"
        elif layer == "norm":
            layer = "post_bn"
        elif parts[0] == "conv1":
            index, kind = divmod(int(parts[1]) if len(parts) > 1 else 0, 3)
            layer = f"conv{index + 1}_{'bn' if kind else 'conv'}"
        elif layer == "bn1":
            layer = "conv3_bn" if deep else "conv1_bn"
        else:
            block = f"stack{int(parts[0][5:]) - 1}_block{parts[1]}"
            if parts[2] == "downsample":
                layer = f"{block}_0_{'bn' if parts[3] == '1' else 'conv'}"
            elif parts[2] == "se":
                inner = parts[3].replace("fc", "conv")
                if automatic:
                    number = 2 * int(parts[0][5:]) + int(parts[3][2:]) - 3
                    inner = f"conv{array.ndim - 2 if kernel else 2}d" + (f"_{number}" if number else "")
                layer = f"{block}_squeeze_excitation/{inner}"
            else:
                kind, index = parts[2][:-1], int(parts[2][-1])
                if shift and kind == "bn":
                    layer = f"{block}_{'pre_activation' if index == 1 else index - 1}_bn"
                else:
                    layer = f"{block}_{index}_{kind}"
        out[f"{layer}/{leaf}"] = array
    return out


@pytest.mark.parametrize("spatial", [2, 3])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("naming", ["auto", "keras"])
@pytest.mark.parametrize(("before", "after"), [("", ""), ("resnet18/", ":0"), ("my/seresnet/", "")])
def test_keras(spatial: int, deep: bool, naming: str, before: str, after: str) -> None:
    ours = filled(network(spatial, deep=deep))
    theirs = keras(ours, deep=deep)
    assert "stack0_block0_squeeze_excitation/conv1/kernel" in theirs
    assert theirs["predictions/kernel"].shape == (12, 5)
    report = check({before + name + after: array for name, array in theirs.items()}, ours, naming=naming)
    assert (report.naming, report.complete) == ("keras", True)


def test_keras_automatic_names() -> None:
    theirs = keras(NET, automatic=True)
    assert "stack1_block0_squeeze_excitation/conv2d_3/bias" in theirs
    assert "stack0_block0_squeeze_excitation/conv2d/bias" in theirs
    check(theirs, NET)


def test_keras_vd() -> None:
    """Keras does not count the shortcut's pool, our own names do."""
    ours = renamed(filled(network(deep=True)), ("downsample.1", "downsample.2"), ("downsample.0", "downsample.1"))
    theirs = keras(filled(network(deep=True)), deep=True)
    check(theirs, ours)


def test_keras_pre_activation() -> None:
    ours = filled(network() | norm("norm", 12))
    theirs = keras(ours, shift=True)
    assert "stack0_block0_pre_activation_bn/gamma" in theirs
    assert "stack0_block0_1_bn/gamma" in theirs
    assert "stack0_block0_2_bn/gamma" not in theirs
    check(theirs, ours)


def test_keras_applications_names() -> None:
    names = {
        "conv1_conv/kernel": "conv1.weight",
        "conv1_conv/bias": "conv1.bias",
        "conv2_block1_0_conv/kernel": "layer1.0.downsample.0.weight",
        "conv2_block1_0_bn/beta": "layer1.0.downsample.1.bias",
        "conv5_block3_3_bn/moving_variance": "layer4.2.bn3.running_var",
        "probs/bias": "fc.bias",
    }
    assert torch_names(names) == names


def test_keras_kernels_in_the_wrong_layout() -> None:
    wrong = {name: np.ascontiguousarray(array.T) if array.ndim > 1 else array for name, array in keras(NET).items()}
    with pytest.raises(WeightsError) as error:
        weights.match(wrong, network())
    bad = {row.name for row in error.value.report.mismatched}  # type: ignore[attr-defined]
    square = {name for name, shape in network().items() if len(shape) > 1 and shape[0] == shape[1] == shape[-1]}
    assert bad == {name for name, shape in network().items() if len(shape) > 1} - square


def test_keras_names_that_are_no_resnet() -> None:
    names = [
        "dense/kernel",
        "stack0_block0_9x_conv/kernel",
        "stack0_block0_1_conv/other",
        "conv1_conv",
        "a/b/c/d/e/f/bias",
    ]
    assert torch_names(names) == {}


# -- reports --------------------------------------------------------------------------------------


def test_other_number_of_classes() -> None:
    expected = network() | {"fc.weight": (3, 12), "fc.bias": (3,)}
    with pytest.raises(WeightsError) as error:
        weights.match(NET, expected)
    report = error.value.report
    assert isinstance(report, weights.Report)
    assert [(row.name, row.expected, row.got) for row in report.mismatched] == [
        ("fc.weight", (3, 12), (5, 12)),
        ("fc.bias", (3,), (5,)),
    ]
    assert "fc.weight  expected (3, 12), got (5, 12)" in str(error.value)
    arrays, again = weights.match(NET, expected, strict=False)
    assert again == report
    assert len(arrays) == report.loaded == len(NET) - 2


def test_missing_and_unexpected() -> None:
    tensors = {name: array for name, array in PLAIN.items() if name != "layer1.0.bn1.bias"}
    tensors |= {"layer1.0.bn1.bais": np.zeros(8), "extra.buffer": np.zeros(1)}
    _, report = weights.match(
        {f"module.{name}": array for name, array in tensors.items()}, network(squeeze=False), strict=False
    )
    assert report.missing == ("layer1.0.bn1.bias",)
    # Unexpected names are shown as they are in the file.
    assert report.unexpected == ("module.layer1.0.bn1.bais", "module.extra.buffer")
    assert "did you mean 'module.layer1.0.bn1.bais'" in str(report)


@pytest.mark.parametrize("layout", ["transposed", "channels last"])
def test_wrong_layouts_are_mismatches(layout: str) -> None:
    expected = {"conv1.weight": (8, 3, 7, 7), "fc.weight": (5, 12), "fc.bias": (5,)}
    tensors = {name: np.zeros(shape) for name, shape in expected.items()}
    if layout == "transposed":
        tensors["fc.weight"] = tensors["fc.weight"].T
    else:
        tensors["conv1.weight"] = tensors["conv1.weight"].transpose(2, 3, 1, 0)
    _, report = weights.match(tensors, expected, strict=False)
    assert [row.hint for row in report.mismatched] == [
        "transposed?" if layout == "transposed" else "channels-last layout?"
    ]
    assert report.mismatched[0].hint in str(report)


def test_2d_weights_for_a_3d_network() -> None:
    _, report = weights.match(NET, network(3), strict=False)
    assert {row.hint for row in report.mismatched} == {"2D weights for a 3D network, or the reverse?"}


def test_other_depth_is_said() -> None:
    tensors = PLAIN | {name.replace("layer1.0", "layer1.1"): array for name, array in PLAIN.items() if "layer1" in name}
    with pytest.raises(
        WeightsError, match=r"the weights have \[2, 1\] blocks in their stages, the network has \[1, 1\]"
    ):
        weights.match(tensors, network(squeeze=False))


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("resnet.embedder.embedder.convolution.weight", "transformers"),
        ("features.denseblock1.denselayer1.norm1.weight", "DenseNet"),
        ("blocks.0.attn.qkv.weight", "vision transformer"),
        ("dense_1/kernel", "Keras model"),
    ],
)
def test_foreign_names_are_recognised(name: str, who: str) -> None:
    # Even when not strict: nothing at all was loaded.
    with pytest.raises(WeightsError, match=who) as error:
        weights.match({name: np.zeros(3)}, network(), strict=False)
    report = error.value.report
    assert isinstance(report, weights.Report)
    assert (report.naming, report.loaded) == ("unknown", 0)


def test_nothing_given() -> None:
    with pytest.raises(WeightsError, match="no name fits"):
        weights.match({}, network(), strict=False)
    assert weights.match({}, {})[1].complete


NAMES = st.lists(
    st.sampled_from([*network(), "module", "se", "fc", "0", ".", "..", "/", ":0", "kernel", "é"]), max_size=3
)


@given(st.dictionaries(NAMES.map(".".join) | st.text(), st.tuples(st.integers(0, 2), st.integers(1, 8)), max_size=6))
def test_any_names(shapes: Any) -> None:
    """Whatever they are: a report that accounts for every tensor."""
    tensors = {name: np.zeros(shape) for name, shape in shapes.items()}
    report: object = None
    try:
        _, report = weights.match(tensors, network(), strict=False)
    except WeightsError as error:
        report = error.report
    assert isinstance(report, weights.Report)
    counters = sum(name.endswith("num_batches_tracked") for name in tensors)
    assert report.loaded + len(report.unexpected) + len(report.mismatched) + counters == len(tensors)
    assert report.loaded + len(report.missing) + len(report.mismatched) == len(network())
    assert str(report)


def test_report_is_short() -> None:
    with pytest.raises(WeightsError) as error:
        weights.match({f"x{i}.{'y' * 300}": np.zeros(1) for i in range(5000)}, {f"layer{i}": (1,) for i in range(5000)})
    assert len(str(error.value).splitlines()) < 40
    assert "... and 4988 more" in str(error.value)


def test_wrong_arguments() -> None:
    with pytest.raises(ArgumentError, match=r"naming.*did you mean 'keras'"):
        weights.match(NET, network(), naming="kerras")
    with pytest.raises(ArgumentError, match="names"):
        weights.match({3: np.zeros(1)}, network())  # type: ignore[dict-item]


# -- reference files ------------------------------------------------------------------------------


def reference(folder: str) -> list[Any]:
    root = checkpoints.shared_folder()
    files = sorted((root / "reference" / folder).glob("*.npz")) if root else []
    absent = pytest.mark.skip(reason="the reference files (../shared or RESNET_RS_SHARED) are not here")
    return [pytest.param(path, id=path.stem) for path in files] or [pytest.param(Path(), marks=absent)]


@pytest.mark.parametrize("path", reference("models"))
def test_names_of_medicai(path: Path) -> None:
    """Every tensor of every backbone is understood, one of our names for each."""
    info = json.loads(np.load(path)["info"].tobytes())
    names = [name for name, _, _ in info["weights"]]
    translated = torch_names(names)
    encoder = [
        name for name in names if name.startswith(("stack", "conv1_", "conv2_", "conv3_", "post_bn", "predictions"))
    ]
    assert list(translated) == encoder
    assert len(set(translated.values())) == len(encoder)


@pytest.mark.parametrize("path", reference("torch"))
def test_names_of_torch_libraries(path: Path) -> None:
    shapes = {name: tuple(shape) for name, shape in json.loads(np.load(path)["info"].tobytes())["tensors"]}
    tensors = {f"module.{name}": np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    arrays, report = weights.match(tensors, shapes)
    assert report.complete
    assert report.prefix == "module."
    assert arrays.keys() == shapes.keys()
