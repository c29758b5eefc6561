"""The command line, run as a user runs it: as a process, judged by what it prints and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_rs as rr

pytestmark = pytest.mark.filterwarnings("error")


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "resnet_rs", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )


def succeed(*arguments: str | Path, **environment: str) -> str:
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def refuse(code: int, *arguments: str | Path, **environment: str) -> str:
    """The one line on standard error of a command that exits with `code`."""
    done = run(*arguments, **environment)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    # A wrong command is answered by argparse: the usage, then the error.
    assert lines[-1].startswith("resnet-rs"), done.stderr
    assert "error: " in lines[-1]
    assert "internal" not in lines[-1]
    assert code == 2 or len(lines) == 1, done.stderr
    return lines[-1]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = pytest.importorskip("PIL.Image")
    path = tmp_path_factory.mktemp("images") / "a picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    images.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    rr.models.ResNet18(input_shape=(32, 32, 3), num_classes=7).save_weights(path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    rr.save(rr.models.ResNet18(input_shape=(32, 32, 3), num_classes=7), path)
    return path


# -- help, version, usage ---------------------------------------------------------------------------


def test_version() -> None:
    assert succeed("--version").strip() == f"resnet-rs {rr.__version__}"


@pytest.mark.parametrize("command", ["", "predict", "list", "summary", "bench", "doctor"])
def test_help_has_examples(command: str) -> None:
    text = succeed(*command.split(), "--help")
    assert "examples:\n  resnet-rs" in text
    assert f"resnet-rs {command}".strip() in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required"),
        (["predikt"], "predikt"),
        (["predict", "--model", "resnet18"], "IMAGE"),
        (["predict", "x.png"], "--model"),
        (["predict", "x.png", "--model", "resnet18", "--top", "0"], ">= 1"),
        (["predict", "x.png", "--model", "resnet18", "--threads", "many"], "many"),
        (["predict", "x.png", "--model", "resnet18", "--preprocess", "magic"], "magic"),
        (["predict", "x.png", "--model", "resnet18", "--mod", "resnet18"], "--mod"),
        (["summary", "resnet18", "--input-shape", "224"], "224x224x3"),
        (["summary", "resnet18", "--input-shape", "0x0x3"], "224x224x3"),
        (["bench", "resnet18", "--batch", "-1"], ">= 1"),
        *((["bench", "resnet18", "--seconds", value], "seconds >= 0") for value in ("nan", "inf", "-1", "soon")),
    ],
)
def test_wrong_command_exits_2(arguments: list[str], says: str) -> None:
    assert says in refuse(2, *arguments)


# -- list, summary, bench, doctor ---------------------------------------------------------------------


def test_list() -> None:
    names = succeed("list").split()
    assert names == list(rr.list_models())
    assert "resnet50" in names
    assert json.loads(succeed("list", "--json")) == names
    assert succeed("list", "SERESNET1*").split() == [name for name in names if name.startswith("seresnet1")]
    assert "resnot" in refuse(1, "list", "resnot*")
    assert "did you mean 'resnet50'" in refuse(1, "list", "resnet5O")
    assert succeed("list", "ResNet50_v2").split() == ["resnet50v2"]
    assert {"unet", "attention_unet", "lucid_wide_resnet_50"} <= set(names)


@pytest.mark.parametrize("module", ["resnet_rs", "resnet_rs.cli"])
def test_both_modules_are_the_command(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "list", "resnet20"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "resnet20\n"


def test_list_survives_a_closed_pipe() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "resnet_rs", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_summary() -> None:
    text = succeed("summary", "resnet18", "--input-shape", "64x64x3", "--num-classes", "5")
    assert "conv1" in text
    assert "11,179" in text
    assert "33,161,920"[:3] in succeed("summary", "resnet18", "--input-shape", "32,32,32,1")


def test_summary_of_weights(weights: Path, saved: Path) -> None:
    text = succeed("summary", weights)
    assert "Inferred: 2D, block_type=basic_block, num_blocks=[2, 2, 2, 2]" in text
    assert "(None, None, None, 3)" in text
    assert "(None, 48, 64, 3)" in succeed("summary", weights, "--input-shape", "48x64x3")
    assert "(None, 32, 32, 3)" in succeed("summary", saved)


def test_summary_of_nothing_known() -> None:
    assert "did you mean 'resnext50'" in refuse(1, "summary", "resnext5O")


def test_bench() -> None:
    shape = ["--input-shape", "32x32x3", "--seconds", "0.1", "--threads", "1"]
    assert "GFLOP/s" in succeed("bench", "resnet18", *shape)
    result = json.loads(succeed("bench", "resnet18", *shape, "--batch", "2", "--layers", "--json"))
    assert result["input_shape"] == [2, 32, 32, 3]
    assert result["threads"] == 1
    assert result["median_ms"] > 0
    assert result["layers"]
    assert "conv1" in succeed("bench", "resnet18", *shape, "--layers")


def test_bench_says_which_layer_takes_what() -> None:
    """Algorithm, milliseconds, GFLOP/s, part of the peak and of the time of every layer, and their totals."""
    command = ["bench", "resnet18", "--input-shape", "64x64x3", "--seconds", "0", "--layers"]
    lines = succeed(*command).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("layer "))
    assert lines[start].split() == ["layer", "algorithm", "ms", "GFLOP/s", "%", "of", "peak", "%", "of", "time"]
    assert lines[start + 2].startswith("conv1 ")
    assert lines[-1].split()[0] == "total"
    assert lines[-1].split()[-1] == "100.0"
    layers = json.loads(succeed(*command, "--json"))["layers"]
    assert len(layers) == len(lines) - start - 3
    assert sum(layer["share"] for layer in layers) == pytest.approx(1)
    for layer in layers:
        assert layer["gflop_per_second"] == pytest.approx(layer["flops"] / max(layer["milliseconds"], 1e-9) / 1e6)


def test_segmentation_models_take_an_encoder() -> None:
    unet = ["unet", "--encoder", "resnet18"]
    text = succeed("summary", *unet, "--input-shape", "96x96x96x4", "--num-classes", "3")
    assert "42,688,179" in text
    assert "(None, 224, 224, 1)" in succeed("summary", *unet)
    result = json.loads(succeed("bench", *unet, "--input-shape", "32x32x1", "--seconds", "0", "--json"))
    assert result["input_shape"] == [1, 32, 32, 1]
    assert "--encoder" in refuse(1, "summary", "unet")
    assert "did you mean 'resnet18'" in refuse(1, "summary", "unet", "--encoder", "resnetl8")
    assert "--encoder: resnet18 has none" in refuse(1, "bench", "resnet18", "--encoder", "resnet18")


def test_absurd_sizes_are_refused_before_any_work() -> None:
    assert "memory" in refuse(1, "bench", "resnet18", "--batch", "100000000")
    assert "memory" in refuse(1, "bench", "resnet18", "--input-shape", "1000000x1000000x3")


@pytest.mark.parametrize(
    ("name", "value"), [("RESNET_RS_ISA", "avx1024"), ("RESNET_RS_NUM_THREADS", "0"), ("RESNET_RS_NUM_THREADS", "all")]
)
@pytest.mark.parametrize(
    "command", ["--version", "list", "doctor", "summary resnet18", "predict x.png --weights w.pth"]
)
def test_a_wrong_environment_is_one_line(name: str, value: str, command: str) -> None:
    assert name in refuse(1, *command.split(), **{name: value})


def test_help_needs_no_engine() -> None:
    assert "usage" in succeed("--help", RESNET_RS_ISA="avx1024")


def test_bench_of_a_saved_model(saved: Path) -> None:
    assert json.loads(succeed("bench", saved, "--seconds", "0.1", "--json"))["input_shape"] == [1, 32, 32, 3]


@pytest.mark.parametrize("isa", rr.cpu_info()["available_isas"])
def test_doctor(isa: str) -> None:
    found = json.loads(succeed("doctor", "--json", RESNET_RS_ISA=isa, RESNET_RS_NUM_THREADS="2"))
    assert found["self-test"] == "passed"
    assert found["isa"].startswith(isa)
    assert found["threads"].startswith("2")
    assert found["resnet_rs"] == rr.__version__
    text = succeed("doctor", RESNET_RS_ISA=isa)
    assert "cgroup quota" in text
    assert {"pillow", "rich", "pyyaml", "h5py"} <= {line.split()[0] for line in text.splitlines()}


# -- predict ----------------------------------------------------------------------------------------


def test_predict(image: Path, weights: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("\n".join("abcdefg"))
    command = ["predict", image, image, "--model", "resnet18", "--weights", weights, "--classes", classes]
    results = json.loads(succeed(*command, "--input-size", "32", "--top", "3", "--json"))
    assert [result["image"] for result in results] == [str(image)] * 2
    scores = [entry["score"] for entry in results[0]["classes"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert results[0]["classes"] == results[1]["classes"]
    assert results[0]["classes"][0]["name"] == "abcdefg"[results[0]["classes"][0]["index"]]

    text = succeed(*command, "--input-size", "32", "--top", "2")
    assert text.count(image.name) == 2
    assert f"{scores[0]:.4f}" in text


def test_predict_infers_the_network(image: Path, weights: Path, saved: Path) -> None:
    command = ["predict", image, "--weights", weights, "--input-size", "32", "--json"]
    named = json.loads(succeed(*command, "--model", "resnet18", "--num-classes", "7"))
    inferred = json.loads(succeed(*command))
    assert inferred[0]["classes"] == named[0]["classes"]
    whole = json.loads(succeed("predict", image, "--weights", saved, "--json"))
    assert whole[0]["classes"] == json.loads(succeed("predict", image, "--model", saved, "--json"))[0]["classes"]
    assert "--naming" in refuse(1, *command, "--naming", "timm")


def test_predict_ignores_no_option(image: Path, weights: Path, saved: Path) -> None:
    for source in (["--weights", weights], ["--model", saved]):
        command = ["predict", image, *source, "--json"]
        assert "--num-classes" in refuse(1, *command, "--num-classes", "5")
        assert len(json.loads(succeed(*command, "--num-classes", "7", "--top", "9"))[0]["classes"]) == 7
        assert "--naming" in refuse(1, *command, "--naming", "timm")
        small = json.loads(succeed(*command, "--input-size", "32"))[0]["classes"]
        assert json.loads(succeed(*command, "--input-size", "64"))[0]["classes"] != small


def test_predict_takes_models_with_channels_first(image: Path, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "first.safetensors"
    rr.save(rr.from_weights(weights, data_format="channels_first", classifier_activation="softmax"), path)
    first = json.loads(succeed("predict", image, "--model", path, "--json"))
    assert first[0]["classes"] == json.loads(succeed("predict", image, "--weights", weights, "--json"))[0]["classes"]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: rr.models.ResNet18(input_shape=(32, 32, 32, 3), num_classes=7), "does not take images"),
        (lambda: rr.models.ResNet18(input_shape=(32, 32, 1), num_classes=7), "its input has 1 channels"),
        (lambda: rr.models.ResNet18(input_shape=(32, 32, 3), include_top=False), "does not classify"),
    ],
)
def test_predict_needs_a_classifier_of_images(model: Any, says: str, image: Path, tmp_path: Path) -> None:
    rr.save(model(), tmp_path / "m.safetensors")
    assert says in refuse(1, "predict", image, "--model", tmp_path / "m.safetensors")
    assert "does not classify" in refuse(1, "predict", image, "--model", "unet", "--weights", "w.pth")


def test_predict_refuses_huge_inputs_at_once(image: Path, weights: Path) -> None:
    for size in ("9000", "1000000"):
        said = refuse(1, "predict", image, "--weights", weights, "--input-size", size)
        assert "size: expected at most" in said


def test_predict_help_names_what_is_read() -> None:
    from resnet_rs.cli.parser import NAMINGS
    from resnet_rs.weights.match import NAMINGS as KNOWN

    assert NAMINGS == KNOWN
    text = succeed("predict", "--help")
    assert all(word in text for word in (".h5", ".keras", ".npz", "lucid", "netspresso"))


def test_predict_is_what_python_predicts(image: Path, saved: Path) -> None:
    from resnet_rs.images import load_image

    result = json.loads(succeed("predict", image, "--model", saved, "--preprocess", "caffe", "--json"))[0]
    expected = rr.load(saved).predict(load_image(image, (32, 32), preprocess="caffe")[None])[0]
    assert result["classes"][0]["index"] == expected.argmax()
    assert result["classes"][0]["score"] == pytest.approx(float(expected.max()), rel=1e-6)


@pytest.mark.parametrize(
    "text", [json.dumps(list("abcdefg")), json.dumps({str(i): ["n0", c] for i, c in enumerate("abcdefg")})]
)
def test_class_files(text: str, image: Path, saved: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.json"
    classes.write_text(text)
    result = json.loads(succeed("predict", image, "--model", saved, "--classes", classes, "--json"))[0]
    assert result["classes"][0]["name"] == "abcdefg"[result["classes"][0]["index"]]


def test_one_bad_image_does_not_stop_the_others(image: Path, saved: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:100])
    done = run("predict", broken, image, tmp_path / "none.png", "--model", saved, "--json")
    assert done.returncode == 1
    assert [result["image"] for result in json.loads(done.stdout)] == [str(image)]
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert str(broken) in lines[0]
    assert str(tmp_path / "none.png") in lines[1]


def test_predict_refuses(image: Path, weights: Path, saved: Path, tmp_path: Path) -> None:
    resnet18 = ["predict", image, "--model", "resnet18"]
    assert "--weights" in refuse(1, *resnet18)
    assert "none.pth" in refuse(1, *resnet18, "--weights", tmp_path / "none.pth")
    assert "resnet18" in refuse(1, "predict", image, "--model", "resnet1B", "--weights", weights)
    refuse(1, *resnet18, "--weights", weights, "--num-classes", "8")
    refuse(1, "predict", image, "--model", "resnet34", "--weights", weights, "--num-classes", "7")

    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\xff" * 100)
    assert "garbage" in refuse(1, *resnet18, "--weights", garbage)
    assert "garbage" in refuse(1, "predict", image, "--model", garbage)

    classes = tmp_path / "classes.json"
    classes.write_text('["a", "b"]')
    assert "7" in refuse(1, "predict", image, "--model", saved, "--classes", classes)
    classes.write_bytes(bytes(range(256)))
    assert "classes.json: expected names as text" in refuse(1, "predict", image, "--model", saved, "--classes", classes)
    classes.write_text('["a", ')
    assert "classes.json" in refuse(1, "predict", image, "--model", saved, "--classes", classes)


def test_debug_shows_the_traceback() -> None:
    for arguments in (["--debug", "summary", "nothing"], ["summary", "nothing", "--debug"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_weights_that_make_nan_are_no_prediction(image: Path, tmp_path: Path) -> None:
    model = rr.models.ResNet18(input_shape=(32, 32, 3), num_classes=7)
    state = model.state_dict()
    state["fc.bias"][:] = np.nan
    model.load_weights(state)
    path = tmp_path / "nan.safetensors"
    rr.save(model, path)
    assert "NaN" in refuse(1, "predict", image, "--model", path, "--json").partition("\n")[0]
