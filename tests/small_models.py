"""A quick network that tests of `Model` share."""

from __future__ import annotations

from typing import Any

import resnet_rs as rr


def small(**arguments: Any) -> rr.Model:
    """A quick network with a shortcut of every kind, by default for images of 20 x 28 with 3 channels."""
    defaults: dict[str, Any] = {
        "input_shape": (20, 28, 3),
        "num_blocks": [1, 2],
        "num_filters": [64, 72],
        "num_strides": [1, 2],
        "block_type": "basic_block",
    }
    return rr.models.ResNetBackbone(**{**defaults, **arguments})
