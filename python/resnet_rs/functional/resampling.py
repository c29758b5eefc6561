"""Operators that change the number of positions and have no weights: pooling and upsampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from resnet_rs.checks import check_bool, check_choice
from resnet_rs.graph import Builder, Tensor
from resnet_rs.one_node import as_map, as_pads, run
from resnet_rs.window import Padding, Size, lift

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["avg_pool", "global_avg_pool", "global_max_pool", "max_pool", "upsample"]


def max_pool(
    x: ArrayLike, kernel: Size, stride: Size | None = None, padding: Padding = 0, dilation: Size = 1
) -> NDArray[np.float32]:
    """Maximum over windows; `stride` defaults to `kernel`, padded cells count as minus infinity; see `conv` for sizes.

    >>> max_pool(np.arange(16).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    array, rank = as_map("max_pool", x)
    sizes, steps = lift("kernel", kernel, rank), lift("stride", kernel if stride is None else stride, rank)
    pads = as_pads(padding, array.shape[1:-1], sizes[3 - rank :], steps, lift("dilation", dilation, rank))

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.max_pool(inputs[0], kernel, stride=steps[3 - rank :], padding=pads, dilation=dilation)

    return run(build, rank, [array])


def avg_pool(
    x: ArrayLike,
    kernel: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    count_include_pad: bool = False,
) -> NDArray[np.float32]:
    """Mean over windows; `stride` defaults to `kernel`; padded cells count as zeros only if `count_include_pad`.

    >>> avg_pool(np.ones((1, 3, 3, 1)), 3, stride=1, padding=1)[0, 0, 0]
    array([1.], dtype=float32)
    """
    array, rank = as_map("avg_pool", x)
    check_bool("count_include_pad", count_include_pad)
    sizes, steps = lift("kernel", kernel, rank), lift("stride", kernel if stride is None else stride, rank)
    pads = as_pads(padding, array.shape[1:-1], sizes[3 - rank :], steps, (1, 1, 1))

    def build(b: Builder, inputs: list[Tensor]) -> Tensor:
        return b.avg_pool(
            inputs[0], kernel, stride=steps[3 - rank :], padding=pads, count_include_pad=count_include_pad
        )

    return run(build, rank, [array])


def global_avg_pool(x: ArrayLike) -> NDArray[np.float32]:
    """Mean over all positions: (n, [d,] h, w, c) to (n, c).

    >>> global_avg_pool(np.arange(8).reshape(1, 2, 2, 2))
    array([[3., 4.]], dtype=float32)
    """
    array, rank = as_map("global_avg_pool", x)
    return run(lambda b, inputs: b.global_avg_pool(inputs[0]), rank, [array]).reshape(len(array), array.shape[-1])


def global_max_pool(x: ArrayLike) -> NDArray[np.float32]:
    """Maximum over all positions: (n, [d,] h, w, c) to (n, c).

    >>> global_max_pool(np.arange(8).reshape(1, 2, 2, 2))
    array([[6., 7.]], dtype=float32)
    """
    array, rank = as_map("global_max_pool", x)
    return run(lambda b, inputs: b.global_max_pool(inputs[0]), rank, [array]).reshape(len(array), array.shape[-1])


def upsample(x: ArrayLike, scale: Size = 2, mode: str = "nearest") -> NDArray[np.float32]:
    """Enlarge by whole factors: "nearest", or "linear" (bi-, trilinear; half-pixel centres, as align_corners=False).

    >>> upsample(np.arange(2).reshape(1, 1, 2, 1), (1, 2))[0, 0, :, 0]
    array([0., 0., 1., 1.], dtype=float32)
    """
    array, rank = as_map("upsample", x)
    check_choice("mode", mode, ("nearest", "linear"))
    return run(lambda b, inputs: b.upsample(inputs[0], scale, mode=mode), rank, [array])
