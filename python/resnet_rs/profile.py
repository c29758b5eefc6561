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
            "gflop_per_second"; "of_peak", that over `peak`, which is above 1 where an algorithm multiplies less than
            the direct form that is counted; and "share", its part of the whole time (0 to 1).
        peak: GFLOP/s that the threads reach with multiply-adds on registers alone, an attribute.

    >>> step = {"name": "conv1", "algorithm": "direct", "output_shape": (1, 1, 8, 8, 4), "flops": 2e6}
    >>> print(Profile([{**step, "milliseconds": 0.5}, {**step, "name": "conv2", "milliseconds": 1.5}], peak=16))
    ┏━━━━━━━┳━━━━━━━━━━━┳━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━┓
    ┃ layer ┃ algorithm ┃    ms ┃ GFLOP/s ┃ % of peak ┃ % of time ┃
    ┡━━━━━━━╇━━━━━━━━━━━╇━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━┩
    │ conv1 │ direct    │ 0.500 │       4 │        25 │      25.0 │
    │ conv2 │ direct    │ 1.500 │       1 │         8 │      75.0 │
    │ total │           │ 2.000 │       2 │        12 │     100.0 │
    └───────┴───────────┴───────┴─────────┴───────────┴───────────┘
    """

    HEADINGS = ("layer", "algorithm", "ms", "GFLOP/s", "% of peak", "% of time")
    RIGHT = (2, 3, 4, 5)

    def __init__(self, steps: Iterable[Mapping[str, Any]], peak: float) -> None:
        self.peak = peak
        given = [dict(step) for step in steps]
        total = sum(step["milliseconds"] for step in given)
        super().__init__(
            {
                **step,
                "gflop_per_second": (speed := _speed(step["flops"], step["milliseconds"])),
                "of_peak": speed / peak,
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
        speed = _speed(self.flops, self.milliseconds)
        total = {
            "name": "total",
            "algorithm": "",
            "milliseconds": self.milliseconds,
            "gflop_per_second": speed,
            "of_peak": speed / self.peak,
            "share": 1.0,
        }
        return [
            (
                step["name"],
                step["algorithm"],
                f"{step['milliseconds']:.3f}",
                f"{step['gflop_per_second']:.0f}" if step["gflop_per_second"] else "",
                f"{100 * step['of_peak']:.0f}" if step["gflop_per_second"] else "",
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
