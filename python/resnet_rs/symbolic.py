"""`SymbolicTensor`: the shape of something that is computed later."""

from __future__ import annotations

import numpy as np

__all__ = ["SymbolicTensor"]


class SymbolicTensor:
    """The shape that an output will have; None stands for a size that is not known before an input comes.

    >>> SymbolicTensor((None, 112, 112, 64))
    <shape=(None, 112, 112, 64)>
    """

    def __init__(self, shape: tuple[int | None, ...]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float32)

    def __repr__(self) -> str:
        return f"<shape={self.shape}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SymbolicTensor) and self.shape == other.shape

    def __hash__(self) -> int:
        return hash(self.shape)
