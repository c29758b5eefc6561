"""`weights.read`: every format gives the numbers that went in."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from checkpoints import Call, Global, legacy_bytes, storage, tensor, view, zip_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from resnet_rs import weights
from resnet_rs.errors import ArgumentError, FileFormatError

RNG = np.random.default_rng(7)
STATE = {
    "conv1.weight": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "bn1.running_mean": RNG.standard_normal(4).astype(np.float32),
    "bn1.num_batches_tracked": np.array(12, np.int64),
    "fc.weight": RNG.standard_normal((5, 4)),
}
FORMATS = {"zip": zip_bytes, "legacy": legacy_bytes}


@pytest.fixture
def shared() -> Path:
    folder = checkpoints.shared_folder()
    if folder is None:
        pytest.skip("the reference files (../shared or RESNET_RS_SHARED) are not here")
    return folder


@pytest.fixture(params=FORMATS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A function that writes a checkpoint in one of PyTorch's formats and reads it."""

    def save(value: Any, key: str | None = None, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
        path = tmp_path / "checkpoint"
        path.write_bytes(FORMATS[request.param](value, **options))
        return weights.read(path, key=key)

    return save


def tensors(prefix: str = "") -> dict[str, Call]:
    return collections.OrderedDict((prefix + name, tensor(array)) for name, array in STATE.items())


def check(arrays: dict[str, np.ndarray[Any, Any]], prefix: str = "") -> None:
    assert list(arrays) == [prefix + name for name in STATE]
    for name, array in STATE.items():
        np.testing.assert_array_equal(arrays[prefix + name], array, strict=True)
        assert arrays[prefix + name].flags.aligned
        assert arrays[prefix + name].flags.c_contiguous


# -- PyTorch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dict(saved: Any, protocol: int) -> None:
    check(saved(tensors(), protocol=protocol))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "weights"])
def test_nested(saved: Any, key: str) -> None:
    rest = {
        "epoch": 3,
        "loss": [0.5, None, True],
        "optimizer": {"state": {0: {"step": 5}}, "param_groups": [{"lr": 0.1}]},
    }
    check(saved({"epoch": 1, key: tensors("module."), **rest}), "module.")


def test_twice_nested(saved: Any) -> None:
    check(saved({"model": {"state_dict": tensors()}}))


def test_unknown_key(saved: Any) -> None:
    check(saved({"epoch": 3, "my_net": tensors()}))


def test_numbers_beside_the_weights(saved: Any) -> None:
    check(saved({"epoch": np.int64(3), "step": tensor(np.array(3)), "model": {"name": "resnet"}, "my_net": tensors()}))


def test_only_vectors_and_numbers(saved: Any) -> None:
    arrays = saved({"scale": tensor(np.array(2.0)), "bias": tensor(np.ones(1))})
    assert {name: array.shape for name, array in arrays.items()} == {"scale": (), "bias": (1,)}


def test_lightning(saved: Any) -> None:
    parameters = Call(Global("pytorch_lightning.utilities.parsing", "AttributeDict"), ())
    namespace = Call(Global("argparse", "Namespace"), (), {"lr": 0.1})
    callbacks = {Global("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): {"best": 0.5}}
    check(
        saved(
            {
                "pytorch-lightning_version": "2.5.0",
                "callbacks": callbacks,
                "hyper_parameters": parameters,
                "args": namespace,
                "folder": Call(Global("pathlib", "PosixPath"), ("/", "home")),
                "device": Call(Global("torch", "device"), ("cuda", 0)),
                "state_dict": tensors("model."),
            }
        ),
        "model.",
    )


def test_choice_of_two(saved: Any) -> None:
    both = {"generator": tensors(), "discriminator": {"fc.bias": tensor(np.zeros(3, np.float32))}}
    with pytest.raises(FileFormatError, match="'generator', 'discriminator'"):
        saved(both)
    check(saved(both, key="generator"))
    with pytest.raises(ArgumentError, match="did you mean 'generator'"):
        saved(both, key="generatr")


def test_parameters(saved: Any) -> None:
    hooks: dict[str, Any] = collections.OrderedDict()
    wrap = Global("torch._utils", "_rebuild_parameter")
    check(saved({name: Call(wrap, (item, True, hooks)) for name, item in tensors().items()}))
    wrap = Global("torch._utils", "_rebuild_parameter_with_state")
    check(saved({name: Call(wrap, (item, True, hooks, {"tag": 1})) for name, item in tensors().items()}))


def test_subclass_of_tensor(saved: Any) -> None:
    wrap = Global("torch._tensor", "_rebuild_from_type_v2")
    kind = Global("torch.nn.parameter", "Parameter")
    check(saved({name: Call(wrap, (item.function, kind, item.arguments, {})) for name, item in tensors().items()}))


def test_oldest_constructor(saved: Any) -> None:
    constructor = Global("torch._utils", "_rebuild_tensor")
    check(saved({name: Call(constructor, item.arguments[:4]) for name, item in tensors().items()}))


def test_untyped_storage(saved: Any) -> None:
    def untyped(array: np.ndarray[Any, Any]) -> Call:
        held = checkpoints.Storage(array.tobytes(), "torch.storage.UntypedStorage", array.nbytes)
        dtype = Global("torch", str(array.dtype))
        arguments = (held, *tensor(array).arguments[1:], dtype)
        return Call(Global("torch._utils", "_rebuild_tensor_v3"), arguments)

    check(saved({name: untyped(array) for name, array in STATE.items()}))


def test_half(saved: Any) -> None:
    array = np.array([1.5, -2, np.inf, 6e-8, 65504], np.float16)
    read = saved({"a": tensor(array)})["a"]
    np.testing.assert_array_equal(read, array.astype(np.float32), strict=True)


def test_bfloat16(saved: Any) -> None:
    values = np.array([1.5, -2, np.inf, 3e38, 1e-39], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    read = saved({"a": view(storage(upper, "BFloat16Storage"), 0, (5,), (1,))})["a"]
    np.testing.assert_array_equal(read, (upper.astype(np.uint32) << 16).view(np.float32), strict=True)


@pytest.mark.parametrize("kind", checkpoints.STORAGES)
def test_element_types(saved: Any, kind: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 0]], kind)
    expected = array.astype(np.float32) if kind == "f2" else array
    np.testing.assert_array_equal(saved({"a": tensor(array)})["a"], expected, strict=True)


@given(
    data=st.data(),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    offset=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_strided_views(data: st.DataObject, shape: tuple[int, ...], offset: int, tmp_path_factory: Any) -> None:
    """Any view without overlap: axes in any order, gaps between them."""
    strides, step = [0] * len(shape), 1
    for axis in data.draw(st.permutations(range(len(shape)))):
        strides[axis] = step * data.draw(st.integers(1, 2))
        step = strides[axis] * max(shape[axis], 1)
    base = np.arange(offset + step + 3, dtype=np.float32)
    expected = np.lib.stride_tricks.as_strided(base[offset:], shape, [4 * stride for stride in strides])
    for name, form in FORMATS.items():
        path = tmp_path_factory.mktemp(name) / "view.pth"
        path.write_bytes(form({"a": view(storage(base), offset, shape, tuple(strides))}))
        np.testing.assert_array_equal(weights.read(path)["a"], expected, strict=True)


def test_tied(saved: Any) -> None:
    held = storage(np.arange(12, dtype=np.float32))
    arrays = saved({"encoder": view(held, 0, (3, 4), (4, 1)), "decoder": view(held, 0, (3, 4), (4, 1))})
    assert arrays["encoder"] is arrays["decoder"]
    arrays = saved({"qk": view(held, 0, (2, 4), (4, 1)), "v": view(held, 8, (1, 4), (4, 1))})
    assert arrays["v"].tolist() == [[8, 9, 10, 11]]


def test_legacy_storage_view(tmp_path: Path) -> None:
    held = storage(np.arange(12, dtype=np.float32))
    held.view = ("12", 4, 6)
    path = tmp_path / "view.pth"
    path.write_bytes(legacy_bytes({"a": view(held, 1, (2,), (1,))}))
    assert weights.read(path)["a"].tolist() == [5, 6]
    held.view = ("12", 4, 9)
    path.write_bytes(legacy_bytes({"a": view(held, 1, (2,), (1,))}))
    with pytest.raises(FileFormatError):
        weights.read(path)


def test_unwanted_storages_are_not_read(tmp_path: Path) -> None:
    moments = checkpoints.Storage(b"", "QInt8Storage", 9)
    moments.kind = "FloatStorage"
    path = tmp_path / "big.pth"
    path.write_bytes(zip_bytes({"optimizer": {"state": {0: view(moments, 0, (9,), (1,))}}, "state_dict": tensors()}))
    check(weights.read(path))


def test_big_endian_zip(tmp_path: Path) -> None:
    path = tmp_path / "s390x.pth"
    swapped = {
        name: view(storage(a), 0, a.shape, tuple(s // a.itemsize for s in a.strides)) for name, a in STATE.items()
    }
    for name, item in swapped.items():
        item.arguments[0].data = STATE[name].byteswap().tobytes()
    path.write_bytes(zip_bytes(swapped, byteorder=b"big"))
    check(weights.read(path))
    path.write_bytes(zip_bytes(tensors(), byteorder=None))
    check(weights.read(path))


def test_big_endian_legacy_refused(tmp_path: Path) -> None:
    path = tmp_path / "s390x.pth"
    path.write_bytes(legacy_bytes(tensors(), system={**checkpoints.SYSTEM, "little_endian": False}))
    with pytest.raises(FileFormatError, match="big-endian"):
        weights.read(path)


def test_deflated_zip(tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    path.write_bytes(zip_bytes(tensors(), compression=zipfile.ZIP_DEFLATED))
    check(weights.read(path))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpy_beside_and_as_weights(saved: Any, protocol: int, tmp_path: Path) -> None:
    best = {
        "acc": np.float64(0.5),
        "n": np.int64(3),
        "labels": np.arange(3),
        "names": {"a"},
        "raw": b"\xff",
        "size": 1 << 70,
    }
    check(saved({"best": best, "state_dict": tensors()}, protocol=protocol))
    path = tmp_path / "numpy.pkl"
    values = STATE | {"f": np.asfortranarray(STATE["fc.weight"]), "be": np.arange(3, dtype=">f4"), "s": np.float32(2)}
    path.write_bytes(pickle.dumps({"epoch": 1, "model": values}, protocol=protocol))
    arrays = weights.read(path)
    for name, value in values.items():
        np.testing.assert_array_equal(arrays[name], value)
    assert arrays["be"].dtype == np.float32


def test_torchscript_and_models_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(zip_bytes(tensors(), extra={"archive/constants.pkl": b"", "archive/code/__torch__.py": b""}))
    with pytest.raises(FileFormatError, match="TorchScript"):
        weights.read(path)
    path.write_bytes(zip_bytes(Call(Global("torchvision.models.resnet", "ResNet"), ())))
    with pytest.raises(FileFormatError, match=r"torchvision\.models\.resnet\.ResNet.*state_dict"):
        weights.read(path)
    path.write_bytes(zip_bytes([1, 2]))
    with pytest.raises(FileFormatError, match="a dictionary of tensors, got a list"):
        weights.read(path)


# -- other formats --------------------------------------------------------------------------------


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for save in (np.savez, np.savez_compressed):
        with path.open("wb") as file:
            save(file, **STATE, half=np.ones(2, np.float16), f=np.asfortranarray(STATE["fc.weight"]))
        arrays = weights.read(path)
        np.testing.assert_array_equal(arrays.pop("half"), np.ones(2, np.float32), strict=True)
        np.testing.assert_array_equal(arrays.pop("f"), STATE["fc.weight"], strict=True)
        check(arrays)


@pytest.mark.parametrize("value", [np.array([{}]), np.zeros(2, complex), np.array(["a"]), np.zeros(2, "f4,i4")])
def test_npz_of_other_things_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, a=value)
    with pytest.raises(FileFormatError, match="plain numbers"):
        weights.read(path)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\x93NUMPY", r"\.npy"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"hello world", "begins with b'hello world"),
        (b"", "bytes"),
    ],
)
def test_strangers_are_named(tmp_path: Path, head: bytes, what: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(head + bytes(200 if head else 0))
    with pytest.raises(FileFormatError, match=what) as error:
        weights.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        weights.read(tmp_path / "absent.pth")
    with pytest.raises(FileFormatError, match="directory"):
        weights.read(tmp_path)
    for path in (3, b"weights.pth", None, "a\0b"):
        with pytest.raises(ArgumentError, match="path"):
            weights.read(path)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileFormatError, match="special file"):
        weights.read(tmp_path / "fifo")


def test_metadata_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(zip_bytes(tensors()))
    with pytest.raises(FileFormatError, match="header"):
        weights.read_metadata(path)


# -- reference files ------------------------------------------------------------------------------

REFERENCES = {
    "bfloat16.pth": 2**-8,
    "dataparallel.pth": 0,
    "half.pth": 2**-11,
    "lightning.ckpt": 0,
    "parameters.pth": 0,
    "state_dict.pth": 0,
    "state_dict_legacy.pth": 0,
    "strided_view.pth": 0,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_checkpoints(shared: Path, name: str) -> None:
    folder = shared / "reference" / "checkpoints"
    expected = {
        key: array for key, array in weights.read(folder / "state_dict.safetensors").items() if "num_batches" not in key
    }
    arrays, report = weights.match(weights.read(folder / name), {key: array.shape for key, array in expected.items()})
    assert report.complete
    assert report.loaded == len(expected)
    for key, array in expected.items():
        np.testing.assert_allclose(arrays[key], array, rtol=REFERENCES[name], atol=1e-7 if REFERENCES[name] else 0)


def test_published_weights(shared: Path) -> None:
    arrays = weights.read(shared / "data" / "imagenet_resnet50" / "resnet50_v1_fp16.safetensors")
    assert arrays["fc.weight"].shape == (1000, 2048)
    assert sum(a.size for n, a in arrays.items() if a.ndim and "running" not in n) == 25_557_032
    for path in sorted((shared / "data" / "cifar10_resnets").glob("*.th")):
        arrays = weights.read(path)
        assert arrays["module.linear.weight"].shape == (10, 64)
        assert all(np.isfinite(array).all() for array in arrays.values())
