"""Single operators on NumPy arrays, computed by the engine that runs the networks (each call is a one-node graph).

Activations are channels-last: `x` is (n, h, w, c) for 2D or (n, d, h, w, c) for 3D, by the rank of the array. Weights
are in PyTorch's layout: `weight` of `conv` is (k, c / groups, *kernel). Everything may be of any real dtype and memory
layout; results are new float32 arrays. Size arguments are one int for all axes or one per axis.

Errors, for every function: `DTypeError` for arrays of objects, text or complex numbers, `ShapeError` for shapes that do
not fit each other, `ArgumentError` for other arguments (each names what was wrong), `MemoryLimitError` for a result
that does not fit into memory.

>>> import numpy as np
>>> x = np.arange(16).reshape(1, 4, 4, 1)
>>> conv(x, np.ones((1, 1, 2, 2)), stride=2)[0, :, :, 0]
array([[10., 18.],
       [42., 50.]], dtype=float32)
"""

from .elementwise import (
    activation,
    add,
    concat,
    elu,
    gelu,
    hard_sigmoid,
    hard_swish,
    leaky_relu,
    relu,
    relu6,
    rescale,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from .resampling import avg_pool, global_avg_pool, global_max_pool, max_pool, upsample
from .weighted import batch_norm, conv, conv_transpose, dense, squeeze_excite

__all__ = [
    "activation",
    "add",
    "avg_pool",
    "batch_norm",
    "concat",
    "conv",
    "conv_transpose",
    "dense",
    "elu",
    "gelu",
    "global_avg_pool",
    "global_max_pool",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "max_pool",
    "relu",
    "relu6",
    "rescale",
    "sigmoid",
    "silu",
    "softmax",
    "squeeze_excite",
    "tanh",
    "upsample",
]
