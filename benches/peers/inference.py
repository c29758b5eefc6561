"""One class per library: the constructor prepares one network from files, `run` is one inference.

Every library gets the same network, the same number of threads and float32 arithmetic throughout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from peers.engine import INPUT, ONNX, PARAMETERS, SAVED, SPEC, Array


class ResnetRs:
    def __init__(self, folder: Path, threads: int) -> None:
        import resnet_rs as rr

        rr.set_num_threads(threads)
        self.model = rr.load(folder / SAVED)
        self.x = np.load(folder / INPUT)

    def run(self) -> Array:
        return self.model.predict(self.x)

    def results(self, first: Array) -> dict[str, Array]:
        return {"logits": first}


class OnnxRuntime:
    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
        self.inputs = {self.session.get_inputs()[0].name: channels_first(np.load(folder / INPUT))}

    def run(self) -> Array:
        y: Array = self.session.run(None, self.inputs)[0]
        return y

    def results(self, first: Array) -> dict[str, Array]:
        return {"logits": np.moveaxis(first, 1, -1)}


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
        self.inputs = [channels_first(np.load(folder / INPUT))]

    def run(self) -> Any:
        return self.request.infer(self.inputs, share_inputs=True, share_outputs=True)[0]

    def results(self, first: Any) -> dict[str, Array]:
        return {"logits": np.moveaxis(np.array(first), 1, -1)}


class PyTorch:
    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        from peers.torch_net import TorchNet

        torch.set_num_threads(threads)
        self.torch = torch
        network = TorchNet(folder / SPEC, folder / PARAMETERS).eval()
        # Moving the axis leaves the memory channels-last, PyTorch's faster layout.
        self.x = torch.from_numpy(np.load(folder / INPUT)).moveaxis(-1, 1)
        with torch.inference_mode():
            # Tracing and freezing folds the batch normalisations, as the other libraries do.
            self.compiled = torch.jit.freeze(torch.jit.trace(network, self.x, check_trace=False))

    def run(self) -> Any:
        with self.torch.inference_mode():
            return self.compiled(self.x)

    def results(self, first: Any) -> dict[str, Array]:
        return {"logits": first.moveaxis(1, -1).numpy()}


def channels_first(x: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(x, -1, 1))
