"""The catalogue: every model under its name, `create_model`, `list_models`.

Lookup ignores case, underscores and hyphens: "resnet50v2", "resnet50_v2" and "ResNet50V2" are one model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, overload

from resnet_rs._table import printable, table
from resnet_rs.errors import ArgumentError, UnknownNameError, suggest
from resnet_rs.model import Model

__all__ = ["Catalogue", "create_model", "find", "list_models", "register", "register_segmentor"]


class Entry(NamedTuple):
    """A row of the registry."""

    name: str
    family: str
    constructor: type[Model]


_ENTRIES: dict[str, Entry] = {}  # by name, in order of registration
_SPELLINGS: dict[str, str] = {}  # every spelling without case and separators -> name

# Segmentation models, which use any other family as their encoder, by name.
SEGMENTATION = "segmentation"


def register(name: str, family: str, constructor: type[Model], aliases: Sequence[str] = ()) -> None:
    """Add a model; its class name is an alias by itself."""
    _ENTRIES[name] = Entry(name, family, constructor)
    for spelling in (name, constructor.__name__, *aliases):
        _SPELLINGS[_plain(spelling)] = name


def register_segmentor(name: str, constructor: type[Model], aliases: Sequence[str] = ()) -> None:
    """Add a segmentation model, whose encoder is a model of any other family."""
    register(name, SEGMENTATION, constructor, aliases)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def find(name: str) -> type[Model]:
    """Return the constructor of that name.

    Raises:
        UnknownNameError: no model has this name; the message suggests the nearest.

    >>> find("resnet_50").__name__
    'ResNet50'
    """
    if not isinstance(name, str):
        raise ArgumentError(f"name: expected the name of a model, got {name!r}")
    found = _SPELLINGS.get(_plain(name))
    if found is None:
        hint = suggest(name, _ENTRIES) or "; list_models() shows all"
        raise UnknownNameError(f"unknown model '{name}'{hint}")
    return _ENTRIES[found].constructor


def create_model(name: str, **arguments: Any) -> Model:
    """Build a model by name; the arguments are those of its constructor.

    Raises:
        UnknownNameError: no model has this name.
        UnknownArgumentError: the constructor has no such argument.
        ArgumentError: an argument has a value that is not allowed.

    >>> create_model("SEResNeXt50", input_shape=(32, 32, 3), num_classes=10).output_shape
    (None, 10)
    """
    return find(name)(**arguments)


def list_models(family: str | None = None, pattern: str | None = None) -> Catalogue:
    """Return the models of one family, or of all; a sequence of names that shows itself as a table.

    Args:
        family: "resnet", "resnext", "senet", "cifar"; or "segmentation", the models whose encoders those are.
        pattern: keep names that match it, with wildcards ("*50*"); case does not matter.

    Raises:
        UnknownNameError: no such family.

    >>> "seresnext50" in list_models(family="senet")
    True
    >>> sorted(list_models(pattern="resnet5?"))
    ['resnet50', 'resnet56']
    """
    families = sorted({entry.family for entry in _ENTRIES.values()})
    if family is not None and str(family).lower() not in families:
        raise UnknownNameError(
            f"unknown family '{family}'{suggest(str(family), families) or ', expected ' + ', '.join(families)}"
        )
    rows = []
    segmentors = tuple(sorted(entry.name for entry in _ENTRIES.values() if entry.family == SEGMENTATION))
    # Segmentation models are not variants of a family but what it is for: the first column lists them.
    backbones = [each for each in families if each != SEGMENTATION]
    for each in backbones if family is None else [str(family).lower()]:
        names = sorted(entry.name for entry in _ENTRIES.values() if entry.family == each)
        names = [name for name in names if pattern is None or fnmatchcase(name, pattern.lower())]
        if names:
            rows.append((each, () if each == SEGMENTATION else segmentors, tuple(names)))
    return Catalogue(rows)


class Catalogue(Sequence[str]):
    """Names of models, shown as a table of families (as HTML in a notebook)."""

    HEADINGS = ("Segmentor", "Backbone Family", "Variants")

    def __init__(self, rows: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]]) -> None:
        self._rows = rows
        self._names = [name for _, _, names in rows for name in names]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._names[index]

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _SPELLINGS.get(_plain(name)) in self._names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    def _cells(self) -> list[tuple[str, str, str]]:
        def bullets(names: Sequence[str]) -> str:
            return "\n".join(f"• {name}" for name in names)

        return [(bullets(segmentors), family, bullets(names)) for family, segmentors, names in self._rows]

    def __repr__(self) -> str:
        text = table(self.HEADINGS, self._cells(), rules=True)
        width = text.index("\n")
        title = "Model Registry Catalog"
        return printable(" " * ((width - len(title)) // 2) + title + "\n" + text)

    def _repr_html_(self) -> str:
        from html import escape

        def row(tag: str, cells: Sequence[str]) -> str:
            inner = "".join(f"<{tag}>{escape(cell).replace(chr(10), '<br>')}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(row("td", cells) for cells in self._cells())
        head = row("th", self.HEADINGS)
        return f"<table><caption>Model Registry Catalog</caption>{head}{body}</table>"
