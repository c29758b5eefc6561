"""What became of each tensor when weights met a network."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mismatch", "Report"]

# A wrong file has hundreds of wrong names; the first ones tell.
ROWS = 12


@dataclass(frozen=True)
class Mismatch:
    """A tensor whose name fits and whose shape does not; `got` is in our (PyTorch's) layout."""

    name: str
    expected: tuple[int, ...]
    got: tuple[int, ...]

    @property
    def hint(self) -> str:
        """What the shape looks like, or an empty string.

        >>> Mismatch("conv1.weight", (64, 3, 7, 7), (7, 7, 3, 64)).hint
        'channels-last layout?'
        """
        if len(self.got) != len(self.expected):
            return "2D weights for a 3D network, or the reverse?" if min(len(self.got), len(self.expected)) > 3 else ""
        if len(self.got) > 2 and (*self.got[-1:-3:-1], *self.got[:-2]) == self.expected:
            return "channels-last layout?"
        return "transposed?" if sorted(self.got) == sorted(self.expected) else ""


@dataclass(frozen=True)
class Report:
    """The outcome of `weights.match`; `str(report)` is a table.

    Attributes:
        loaded: number of tensors that fit.
        missing: names of the network that the weights do not have.
        unexpected: names of the weights, as they are in the file, that the network does not have.
        mismatched: names that fit with shapes that do not.
        naming: the scheme of the names: "torchvision", "timm", "keras", "native", or "unknown" when nothing fits.
        prefix: what was stripped from the names ("module.").
        hints: what may be the matter, one sentence each.

    >>> print(Report(loaded=3, missing=("fc.bias",), naming="timm", prefix="module."))
    3 tensors loaded, 1 missing, 0 unexpected, 0 mismatched (names: timm, prefix 'module.' stripped)
      missing     fc.bias
    """

    loaded: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    naming: str = "unknown"
    prefix: str = ""
    hints: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every tensor of either side found its counterpart."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        stripped = f", prefix '{self.prefix}' stripped" if self.prefix else ""
        counts = (
            f"{self.loaded} tensors loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.mismatched)} mismatched (names: {self.naming}{stripped})"
        )
        width = max((len(mismatch.name) for mismatch in self.mismatched[:ROWS]), default=0)
        shapes = [
            f"{row.name:{width}}  expected {row.expected}, got {row.got}{f'  {row.hint}' if row.hint else ''}"
            for row in self.mismatched
        ]
        lines = [
            counts,
            *rows("mismatched", shapes),
            *rows("missing", self.missing),
            *rows("unexpected", self.unexpected),
        ]
        return "\n".join([*lines, *(f"  hint        {hint}" for hint in self.hints)])


def rows(label: str, items: list[str] | tuple[str, ...]) -> list[str]:
    """Return the first rows of one part of the table, and how many are left out."""
    shown = [f"  {label:10}  {item if len(item) <= 160 else item[:157] + '...'}" for item in items[:ROWS]]
    return shown if len(items) <= ROWS else [*shown, f"  {label:10}  ... and {len(items) - ROWS} more"]
