"""`Profile`: where the time of a network goes, layer by layer; what `Model.profile` and `Model.plan` return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._table import printable, table

__all__ = ["Profile"]


class Profile(list[dict[str, Any]]):
    """One dict per step of a plan, shown as a table.

    Args:
        steps: with "name", "algorithm", "output_shape" (n, d, h, w, c), "flops" and "milliseconds"; added to each are
            "gflop_per_second" and "share", its part of the whole time (0 to 1).

    >>> step = {"name": "conv1", "algorithm": "direct", "output_shape": (1, 1, 8, 8, 4), "flops": 2e6}
    >>> print(Profile([{**step, "milliseconds": 0.5}, {**step, "name": "conv2", "milliseconds": 1.5}]))
    ┏━━━━━━━┳━━━━━━━━━━━┳━━━━━━━┳━━━━━━━━━┳━━━━━━━┓
    ┃ layer ┃ algorithm ┃    ms ┃ GFLOP/s ┃     % ┃
    ┡━━━━━━━╇━━━━━━━━━━━╇━━━━━━━╇━━━━━━━━━╇━━━━━━━┩
    │ conv1 │ direct    │ 0.500 │       4 │  25.0 │
    │ conv2 │ direct    │ 1.500 │       1 │  75.0 │
    │ total │           │ 2.000 │       2 │ 100.0 │
    └───────┴───────────┴───────┴─────────┴───────┘
    """

    HEADINGS = ("layer", "algorithm", "ms", "GFLOP/s", "%")
    RIGHT = (2, 3, 4)

    def __init__(self, steps: Iterable[Mapping[str, Any]]) -> None:
        given = [dict(step) for step in steps]
        total = sum(step["milliseconds"] for step in given)
        super().__init__(
            {
                **step,
                "gflop_per_second": _speed(step["flops"], step["milliseconds"]),
                "share": step["milliseconds"] / total if total else 0.0,
            }
            for step in given
        )

    @property
    def milliseconds(self) -> float:
        """The time of all steps."""
        return float(sum(step["milliseconds"] for step in self))

    @property
    def flops(self) -> int:
        """The operations of all steps, counted for the direct form of each operator."""
        return int(sum(step["flops"] for step in self))

    def cells(self) -> list[tuple[str, ...]]:
        """The rows of the table as text, the totals last."""
        total = {
            "name": "total",
            "algorithm": "",
            "milliseconds": self.milliseconds,
            "gflop_per_second": _speed(self.flops, self.milliseconds),
            "share": 1.0,
        }
        return [
            (
                step["name"],
                step["algorithm"],
                f"{step['milliseconds']:.3f}",
                f"{step['gflop_per_second']:.0f}" if step["gflop_per_second"] else "",
                f"{100 * step['share']:.1f}",
            )
            for step in (*self, total)
        ]

    def __repr__(self) -> str:
        return printable(table(self.HEADINGS, self.cells(), right=self.RIGHT))

    __str__ = __repr__


def _speed(flops: float, milliseconds: float) -> float:
    """GFLOP/s; 0 for what does not count as arithmetic or is too short for the clock."""
    return flops / milliseconds / 1e6 if milliseconds else 0.0
