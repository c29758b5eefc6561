"""One class per library: `run` is one step of training, from the batch in memory to the changed weights.

Forward with the statistics of the batch, loss, backward, and an update by gradient descent with momentum, in float32.
The loss is the cross-entropy of a softmax where the target is whole numbers, of a sigmoid where it is float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from peers.engine import INPUT, PARAMETERS, SAVED, SPEC, TARGET, Array

# The batch is always the same: at a higher rate it is soon known by heart, and its gradients vanish.
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
# Losses that are compared; the third is the first that momentum has changed.
STEPS = 3


class Trainer(ABC):
    """One step of training, and what is compared of the first ones."""

    @abstractmethod
    def run(self) -> float:
        """Take a step; returns the loss before it."""

    @abstractmethod
    def gradients(self) -> dict[str, Array]:
        """Of the first step, after it alone, by the names and in the layout of our parameters."""

    def results(self, first: float) -> dict[str, Array]:
        gradients = {f"gradients/{name}": np.array(gradient) for name, gradient in self.gradients().items()}
        losses = [first, *(self.run() for _ in range(STEPS - 1))]
        return {"losses": np.array(losses, np.float32), **gradients}


class ResnetRs(Trainer):
    def __init__(self, folder: Path, threads: int) -> None:
        import resnet_rs as rr

        rr.set_num_threads(threads)
        self.x, self.target = np.load(folder / INPUT), np.load(folder / TARGET)
        self.model = rr.load(folder / SAVED)
        classes = np.issubdtype(self.target.dtype, np.integer)
        self.model.compile(
            rr.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
            loss="sparse_categorical_crossentropy" if classes else "binary_crossentropy",
        )

    def run(self) -> float:
        return float(self.model.train_on_batch(self.x, self.target))

    def gradients(self) -> dict[str, Array]:
        return self.model.gradients()


class TensorFlow(Trainer):
    def __init__(self, folder: Path, threads: int) -> None:
        import tensorflow as tf

        from peers.tensorflow_net import TensorFlowNet

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self.network = TensorFlowNet(folder / SPEC, folder / PARAMETERS)
        self.x, self.target = tf.constant(np.load(folder / INPUT)), tf.constant(np.load(folder / TARGET))
        self.velocities = {name: tf.Variable(tf.zeros_like(value)) for name, value in self.network.trained.items()}
        # Not compiled by XLA, whose convolutions on CPUs are slower than oneDNN's: twice in 2D, seven times in 3D.
        self.step = tf.function(self._step)

    def _step(self, x: Any, target: Any) -> Any:
        import tensorflow as tf

        nn, trained = tf.nn, self.network.trained
        entropy = (
            nn.sparse_softmax_cross_entropy_with_logits
            if target.dtype.is_integer
            else nn.sigmoid_cross_entropy_with_logits
        )
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(entropy(target, self.network(x)))
        gradients = tape.gradient(loss, list(trained.values()))
        for variable, velocity, gradient in zip(trained.values(), self.velocities.values(), gradients, strict=True):
            # What Keras's optimiser does in four operations.
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle, accum=velocity.handle, lr=LEARNING_RATE, grad=gradient, momentum=MOMENTUM
            )
        return loss

    def run(self) -> float:
        return float(self.step(self.x, self.target))

    def gradients(self) -> dict[str, Array]:
        from peers.tensorflow_net import from_tensorflow

        # After the first step the velocity is the gradient.
        return {name: from_tensorflow(velocity.numpy()) for name, velocity in self.velocities.items()}


class PyTorch(Trainer):
    def __init__(self, folder: Path, threads: int) -> None:
        import torch

        from peers.torch_net import TorchNet

        torch.set_num_threads(threads)
        self.network = TorchNet(folder / SPEC, folder / PARAMETERS).train()
        # Moving the axis leaves the memory channels-last, PyTorch's faster layout.
        self.x = torch.from_numpy(np.load(folder / INPUT)).moveaxis(-1, 1)
        target = torch.from_numpy(np.load(folder / TARGET))
        functional = torch.nn.functional
        if target.is_floating_point():
            self.target, self.entropy = target.flatten(0, -2), functional.binary_cross_entropy_with_logits
        else:
            self.target, self.entropy = target.flatten(), functional.cross_entropy
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)

    def run(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        points = self.network(self.x).moveaxis(1, -1).flatten(0, -2)
        loss = self.entropy(points, self.target)
        loss.backward()
        self.optimizer.step()
        return float(loss)

    def gradients(self) -> dict[str, Array]:
        return {name: value.grad.numpy() for name, value in self.network.trained().items()}
