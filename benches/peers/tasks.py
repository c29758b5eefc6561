"""The two comparisons: what is timed, with which libraries and networks, and what their results must agree in."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from peers import inference, training
from peers.engine import INPUT, ONNX, PARAMETERS, SAVED, SPEC, TARGET, Array, Library


class Agreement(NamedTuple):
    """The largest difference that is allowed, relative to the reference, in the norm of this order."""

    order: float
    tolerance: float

    def difference(self, result: Array, reference: Array) -> float:
        distance = np.linalg.norm(result.ravel() - reference.ravel(), self.order)
        return float(distance / np.linalg.norm(reference.ravel(), self.order))


class Task(NamedTuple):
    """One comparison.

    `timed` and `precision` say for the record what was done. The results of `reference` are those that the others are
    held against. `image_batch` is the default number of images in a run (of volumes always one), `rounds` that of
    turns, `warm` that of runs of a turn that do not count.
    """

    timed: str
    precision: str
    libraries: Mapping[str, Library]
    reference: str
    agreements: Mapping[str, Agreement]
    nets: tuple[str, ...]
    image_batch: int
    rounds: int
    warm: int

    def installed(self) -> dict[str, str]:
        """The libraries that can be imported here, with their versions."""
        return {
            name: version(library)
            for name, library in self.libraries.items()
            if importlib.util.find_spec(library.module) is not None
        }


def version(library: Library) -> str:
    """The version of the first of its packages that is installed, or what the module says."""
    packages = (found for name in library.distributions for found in importlib.metadata.distributions(name=name))
    return next((package.version for package in packages), None) or importlib.import_module(library.module).__version__


# Whatever is installed, what runs may be another tree: the module knows.
OURS: tuple[str, ...] = ()
TENSORFLOW = ("tensorflow-cpu", "tensorflow")
# The C library's memory stays with the process: else every tensor of a step is mapped, zeroed and unmapped anew.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
# oneDNN computes in float32, whatever the caller's environment says.
FLOAT32 = {"ONEDNN_DEFAULT_FPMATH_MODE": "STRICT"}

INFERENCE = Task(
    timed="inference",
    precision="float32 (OpenVINO held to it by INFERENCE_PRECISION_HINT=f32)",
    libraries={
        "resnet_rs": Library(inference.ResnetRs, OURS, "resnet_rs", (SAVED, INPUT)),
        "openvino": Library(inference.OpenVino, ("openvino",), "openvino", (ONNX, INPUT)),
        "onnxruntime": Library(inference.OnnxRuntime, ("onnxruntime",), "onnxruntime", (ONNX, INPUT)),
        "torch": Library(inference.PyTorch, ("torch",), "torch", (SPEC, PARAMETERS, INPUT)),
    },
    reference="onnxruntime",
    # Relative to the largest logit: far above rounding, far below a wrong kernel or a lower precision (bf16: 1e-2).
    agreements={"logits": Agreement(np.inf, 1e-3)},
    nets=("resnet18", "resnet50", "resnext50", "seresnet50", "resnet18-3d"),
    image_batch=1,
    rounds=15,
    warm=2,
)

TRAINING = Task(
    timed="a step of training: forward with batch statistics, cross-entropy, backward, descent with momentum",
    precision="float32",
    libraries={
        "resnet_rs": Library(training.ResnetRs, OURS, "resnet_rs", (SAVED, INPUT, TARGET)),
        "tensorflow": Library(
            training.TensorFlow,
            TENSORFLOW,
            "tensorflow",
            (SPEC, PARAMETERS, INPUT, TARGET),
            {"TF_ENABLE_ONEDNN_OPTS": "1", **FLOAT32, **KEEP_MEMORY},
        ),
        "torch": Library(
            training.PyTorch,
            ("torch",),
            "torch",
            (SPEC, PARAMETERS, INPUT, TARGET),
            {**FLOAT32, **KEEP_MEMORY},
        ),
    },
    reference="tensorflow",
    # Gradients tensor by tensor: a ReLU that rounding turns off shows in those of all layers before it (resnet50:
    # 1.4e-2 between two right ones; bf16: 2e-1).
    agreements={"losses": Agreement(np.inf, 1e-4), "gradients": Agreement(2, 2e-2)},
    nets=("resnet18", "resnet50", "resnext50", "resnet18-3d", "unet-resnet18-3d"),
    image_batch=16,
    rounds=7,
    warm=1,
)

TASKS = {"inference": INFERENCE, "training": TRAINING}
