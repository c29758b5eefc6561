"""The catalogue: every model under its name, `create_model`, `list_models`.

Lookup ignores case, underscores and hyphens: "resnet50v2", "resnet50_v2" and "ResNet50V2" are one model. So lucid's
"resnet_50", whose arrays and output are others, cannot be told from "resnet50": all of lucid's are listed, and always
found, as "lucid_resnet_50"; its own names find those that no other model has, such as "wide_resnet_50".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
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
    constructor: Callable[..., Model]


_ENTRIES: dict[str, Entry] = {}  # by name, in order of registration
_SPELLINGS: dict[str, str] = {}  # every spelling without case and separators -> name

# Segmentation models, which use any other family as their encoder, by name; lucid's factories.
SEGMENTATION, LUCID = "segmentation", "lucid"


def register(name: str, family: str, constructor: Callable[..., Model], aliases: Sequence[str] = ()) -> None:
    """Add a model; the name of its constructor is an alias by itself.

    Raises:
        ArgumentError: another model has the name or an alias, or one that differs by case and separators only.
    """
    spellings = (name, constructor.__name__, *aliases)
    for spelling in spellings:
        taken = _SPELLINGS.get(_plain(spelling), name)
        if taken != name:
            raise ArgumentError(f"name: {spelling!r} is taken by {taken!r}")
    _SPELLINGS.update(dict.fromkeys(map(_plain, spellings), name))
    _ENTRIES[name] = Entry(name, family, constructor)


def register_segmentor(name: str, constructor: type[Model], aliases: Sequence[str] = ()) -> None:
    """Add a segmentation model, whose encoder is a model of any other family."""
    register(name, SEGMENTATION, constructor, aliases)


def register_lucid(factory: Callable[..., Model]) -> None:
    """Add a factory of lucid's as `lucid_{its name}`, and by its own name where that is free."""
    name = f"lucid_{factory.__name__}"
    _ENTRIES[name] = Entry(name, LUCID, factory)
    _SPELLINGS[_plain(name)] = name
    _SPELLINGS.setdefault(_plain(factory.__name__), name)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def find(name: str) -> Callable[..., Model]:
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
    """Return the models of one family, or of all.

    Nothing is printed: the result is a sequence of names that shows itself as the catalogue's table, in a notebook, at
    the prompt, and by `print(list_models())` in a script.

    Args:
        family: "resnet", "resnext", "senet", "cifar", "lucid"; or "segmentation", the models whose encoders are of any
            family but lucid's.
        pattern: keep models with a name that matches it, with wildcards ("*50*"); as in `create_model`, case,
            underscores and hyphens do not matter.

    Raises:
        UnknownNameError: no such family.
        ArgumentError: `pattern` is no string.

    >>> "seresnext50" in list_models(family="senet")
    True
    >>> list(list_models(pattern="resnet5?")), list(list_models(pattern="ResNet50_v2"))
    (['resnet56', 'resnet50'], ['resnet50v2'])
    """
    families = sorted({entry.family for entry in _ENTRIES.values()}, key=lambda each: (each == SEGMENTATION, each))
    if family is not None and str(family).lower() not in families:
        raise UnknownNameError(
            f"unknown family '{family}'{suggest(str(family), families) or ', expected ' + ', '.join(families)}"
        )
    if pattern is not None and not isinstance(pattern, str):
        raise ArgumentError(f"pattern: expected a string such as 'resnet*', got {pattern!r}")
    wanted = set(_ENTRIES) if pattern is None else _matching(pattern)
    segmentors = tuple(sorted(entry.name for entry in _ENTRIES.values() if entry.family == SEGMENTATION))
    rows = []
    for each in families if family is None else [str(family).lower()]:
        names = tuple(
            sorted(entry.name for entry in _ENTRIES.values() if entry.family == each and entry.name in wanted)
        )
        if names:
            # The first column lists what takes the family as its encoder.
            rows.append((each, () if each in (SEGMENTATION, LUCID) else segmentors, names))
    return Catalogue(rows)


def _matching(pattern: str) -> set[str]:
    """Return the models of which a spelling matches; hyphens inside brackets are ranges."""
    plain = re.sub(r"[_-](?![^\[]*\])", "", pattern.lower())
    return {name for spelling, name in _SPELLINGS.items() if fnmatchcase(spelling, plain)}


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
