"""Weights fitted to a network of other dimensions: another number of input channels, volumes instead of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["adapt_channels", "adapted", "inflate"]


def adapt_channels(kernel: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """Return a stem's kernel (k, c, *kernel) for another number of input channels.

    More channels: the old ones are repeated in their order, each divided among its copies. Fewer: what is left over is
    added up in turns. So an input whose channels are all alike gives what it gave: three grey channels or one.

    >>> adapt_channels(np.float32([[[[1]], [[2]], [[3]]]]), 1).ravel().tolist()
    [6.0]
    >>> adapt_channels(np.float32([[[[1]], [[2]], [[3]]]]), 6).ravel().tolist()
    [0.5, 1.0, 1.5, 0.5, 1.0, 1.5]
    """
    before = kernel.shape[1]
    if channels < before:
        folded = np.zeros((kernel.shape[0], channels, *kernel.shape[2:]), np.float32)
        for channel in range(before):
            folded[:, channel % channels] += kernel[:, channel]
        return folded
    order = [channel % before for channel in range(channels)]
    copies = np.bincount(order, minlength=before)[order].astype(np.float32)
    return kernel[:, order].astype(np.float32) / copies.reshape(1, -1, *(1,) * (kernel.ndim - 2))


def inflate(kernel: NDArray[Any], depth: int) -> NDArray[np.float32]:
    """Return a 2D kernel (k, c, kh, kw) as a 3D one (k, c, depth, kh, kw) (Carreira and Zisserman 2017).

    The kernel is repeated along the depth and divided by it: a volume of equal slices gives what one slice gave.

    >>> inflate(np.ones((1, 1, 3, 3)), 3).sum().round(3)
    np.float32(9.0)
    """
    repeated = np.repeat(kernel[:, :, None].astype(np.float32), depth, axis=2)
    repeated /= depth
    return repeated


def adapted(kernel: NDArray[np.float32], shape: tuple[int, ...], *, stem: bool) -> NDArray[np.float32]:
    """Return a tensor brought nearer to a shape: a 2D kernel inflated to 3D, the channels of a stem adapted.

    >>> adapted(np.ones((8, 3, 7, 7), np.float32), (8, 1, 7, 7, 7), stem=True).shape
    (8, 1, 7, 7, 7)
    """
    if kernel.ndim == 4 and len(shape) == 5:
        kernel = inflate(kernel, shape[2])
    if stem and kernel.ndim == len(shape) > 3 and kernel.shape[1] not in (0, shape[1]):
        kernel = adapt_channels(kernel, shape[1])
    return kernel
