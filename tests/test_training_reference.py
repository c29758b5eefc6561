"""Training against PyTorch: the gradients of the first step, 12 losses, and the weights that are left."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import resnet_rs as rr
from reference_weights import torch_weight
from resnet_rs import _core

CASES = (
    "bottleneck_sgd",
    "resnet18_adamw",
    "resnet18_sgd",
    "resnext_adam",
    "seresnet_3d_sgd",
    "seresnext_3d_rmsprop",
)
# torch.optim's names of options -> the engine's; the learning rate is an argument of each step.
OPTIONS = {"momentum": "momentum", "nesterov": "nesterov"}


class Case:
    """One file of the reference: the network, its weights, its batches."""

    def __init__(self, path: Path) -> None:
        self.arrays = np.load(path)
        self.info: dict[str, Any] = json.loads(self.arrays["info"].tobytes())
        net = self.info["net"]
        self.classes = net.get("nc", 10)
        channels, *sizes = self.info["input_shape"][1:]
        constructor = rr.models.ResNet50 if net.get("bott") else rr.models.ResNet18
        model = constructor(
            input_shape=(*sizes, channels),
            num_blocks=net["layers"],
            groups=net.get("g", 1),
            width_per_group=net.get("w", 64),
            se_block=net.get("se", False),
            se_position="after_bn",
            shortcut_conv=[False] * 4,
            bn_unbiased_running_var=True,
            num_classes=self.classes,
            classifier_activation=None,
        )
        self.network = _core.Network(model.graph.spec())
        self.output = model.graph.outputs["output"]
        self.rows = self.network.parameters()
        self.names = {name: number for number, (name, *_) in enumerate(self.info["tensors"])}
        for number, (name, shape) in enumerate(self.info["tensors"]):
            rng = np.random.default_rng([self.info["seed"], number])
            self.network.set(name, torch_weight(name, shape, rng).reshape(self.shape(name)))

    def shape(self, name: str) -> list[int]:
        return next(shape for row, shape, *_ in self.rows if row == name)

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rng = np.random.default_rng([self.info["seed"], 10**6 + step])
        shape = self.info["input_shape"]
        x = rng.standard_normal(shape)
        y = rng.integers(0, self.classes, shape[0])
        x += (y / self.classes).reshape(-1, *[1] * (len(shape) - 1))
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1), np.float32)
        return x.reshape(x.shape[0], *([1] if x.ndim == 4 else []), *x.shape[1:]), y

    def step(self, step: int) -> float:
        """Forward and backward: the loss."""
        x, y = self.batch(step)
        trainable = [trains for _, _, trains, _ in self.rows]
        [logits] = self.network.train_forward([x], [self.output], trainable=trainable, seed=step)
        z = logits.reshape(len(y), -1).astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        probabilities = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        loss = -np.log(probabilities[np.arange(len(y)), y]).mean()
        probabilities[np.arange(len(y)), y] -= 1
        self.network.zero_gradients()
        d_logits = (probabilities / len(y)).astype(np.float32).reshape(logits.shape)
        self.network.train_backward([d_logits])
        return float(loss)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, shared: Path) -> Case:
    return Case(shared / "reference" / "train" / f"{request.param}.npz")


def test_first_gradients(case: Case) -> None:
    """No further from float64 than three times what PyTorch's float32 strays, tensor by tensor."""
    loss = case.step(0)
    arrays = case.arrays
    stray = abs(arrays["losses_float32"][0] - arrays["losses"][0])
    assert abs(loss - arrays["losses"][0]) <= 3 * max(stray, 1e-6)
    compared = 0
    for number, (name, _) in enumerate(case.info["tensors"]):
        if f"grad_sample_{number}" not in arrays.files:
            continue
        gradient = case.network.gradient(name).astype(np.float64).ravel()
        norm = arrays["grad_norm"][number]
        sample = arrays[f"grad_sample_{number}"]
        got = gradient[:: max(1, gradient.size // 64)][: len(sample)]
        allowed = 3 * max(arrays["grad_rel_err_float32"][number], 1e-6)
        assert abs(np.linalg.norm(gradient) - norm) <= allowed * norm, name
        # The error is relative to the whole gradient; the sample is 64 of its elements, somewhat evenly.
        error = np.linalg.norm(got - sample) / max(np.linalg.norm(sample), 1e-12)
        assert error <= 3 * allowed, (name, error, allowed)
        compared += 1
    assert compared == sum(trains for _, _, trains, _ in case.rows)


def optimizer(case: Case) -> tuple[_core.Optimizer, float]:
    """The one that the reference names, as torch.optim has it."""
    match = re.fullmatch(r"(\w+)\((.*)\)", case.info["optimizer"])
    assert match is not None
    arguments = {key: json.loads(value.lower()) for key, value in re.findall(r"(\w+)=([^,)]+)", match[2])}
    decay = arguments.pop("weight_decay", 0.0)
    rate = arguments.pop("lr")
    factors = [float(trains) for _, _, trains, _ in case.rows]
    decays = [decay for _ in case.rows]
    return _core.Optimizer(match[1].lower(), {"convention": "torch", **arguments}, factors, decays), rate


def test_losses_and_final_weights(case: Case) -> None:
    """12 steps: the losses stray no further than three times PyTorch's float32, running statistics included."""
    arrays = case.arrays
    chosen, rate = optimizer(case)
    losses = []
    for step in range(len(arrays["losses"])):
        losses.append(case.step(step))
        case.network.update(chosen, rate)
    # Errors grow from step to step and are random: what float32 strays up to a step is what it may stray there.
    stray = np.maximum.accumulate(np.abs(arrays["losses_float32"] - arrays["losses"]))
    assert (np.abs(np.array(losses) - arrays["losses"]) <= 3 * np.maximum(stray, 1e-6)).all()
    for number, (name, _) in enumerate(case.info["tensors"]):
        norm = np.linalg.norm(case.network.get(name).astype(np.float64))
        assert abs(norm - arrays["final_norm"][number]) <= 1e-3 * max(arrays["final_norm"][number], 1e-3), name
