"""One class per library: the constructor prepares one network from files, `run` is one inference.

Every library gets the same network, the same number of threads and float32 arithmetic throughout. `prepare` and
`result` convert from and to our channels-last arrays and are never timed: nobody pays for a transposition.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# What `compare.py` writes for the engines, by name inside the folder they are given.
SAVED, ONNX, SPEC, PARAMETERS, INPUT = "model.safetensors", "model.onnx", "spec.json", "parameters.npz", "input.npy"


class Engine(Protocol):
    """A library that runs the network in `folder` with `threads` threads."""

    def __init__(self, folder: Path, threads: int) -> None: ...

    def prepare(self, x: Array) -> Any: ...

    def run(self, x: Any) -> Any: ...

    def result(self, y: Any) -> Array: ...


class ResnetRs:
    def __init__(self, folder: Path, threads: int) -> None:
        import resnet_rs as rr

        rr.set_num_threads(threads)
        self.model = rr.load(folder / SAVED)

    def prepare(self, x: Array) -> Array:
        return x

    def run(self, x: Array) -> Array:
        return self.model.predict(x)

    def result(self, y: Array) -> Array:
        return y


class OnnxRuntime:
    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def prepare(self, x: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))

    def run(self, x: Array) -> Array:
        y: Array = self.session.run(None, {self.input: x})[0]
        return y

    def result(self, y: Array) -> Array:
        return np.moveaxis(y, 1, -1)


class OpenVino:
    def __init__(self, folder: Path, threads: int) -> None:
        import openvino

        core = openvino.Core()
        # Without the precision hint OpenVINO silently computes in bf16 on CPUs that have AMX.
        compiled = core.compile_model(
            core.read_model(str(folder / ONNX)),
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
            },
        )
        self.request = compiled.create_infer_request()

    def prepare(self, x: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))

    def run(self, x: Array) -> Any:
        return self.request.infer([x], share_inputs=True, share_outputs=True)[0]

    def result(self, y: Any) -> Array:
        return np.moveaxis(np.array(y), 1, -1)


class PyTorch:
    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        from peers.torch_net import TorchNet

        torch.set_num_threads(threads)
        self.torch = torch
        self.network = TorchNet(folder / SPEC, folder / PARAMETERS).eval()
        self.compiled: Any = None

    def prepare(self, x: Array) -> Any:
        # Moving the axis leaves the memory channels-last, PyTorch's faster layout.
        tensor = self.torch.from_numpy(x).moveaxis(-1, 1)
        with self.torch.inference_mode():
            # Tracing and freezing folds the batch normalisations, as the other libraries do.
            self.compiled = self.torch.jit.freeze(self.torch.jit.trace(self.network, tensor, check_trace=False))
        return tensor

    def run(self, x: Any) -> Any:
        with self.torch.inference_mode():
            return self.compiled(x)

    def result(self, y: Any) -> Array:
        array: Array = y.moveaxis(1, -1).numpy()
        return array


class Library(NamedTuple):
    """How to run a library, what it is called in an index of packages, and what is imported."""

    engine: type[Engine]
    distribution: str
    module: str


LIBRARIES = {
    "resnet_rs": Library(ResnetRs, "resnet-rs", "resnet_rs"),
    "openvino": Library(OpenVino, "openvino", "openvino"),
    "onnxruntime": Library(OnnxRuntime, "onnxruntime", "onnxruntime"),
    "torch": Library(PyTorch, "torch", "torch"),
}


def installed() -> dict[str, str]:
    """The libraries that can be imported here, with their versions."""
    return {
        name: importlib.metadata.version(library.distribution)
        for name, library in LIBRARIES.items()
        if importlib.util.find_spec(library.module) is not None
    }
