"""What a constructor takes and what a model was built with: `Model.class_describe()` and `.instance_describe()`."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import TYPE_CHECKING

from ._table import columns, printable

if TYPE_CHECKING:
    from .model import Model

__all__ = ["class_text", "instance_text"]


def class_text(constructor: type[Model]) -> str:
    """Return what the class is, and its arguments with their defaults, those of the architecture included."""
    rows: list[tuple[str, object]] = []
    for name, parameter in inspect.signature(constructor).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            # Fields of the class's row of the table; what the constructor has itself stands already above.
            row = getattr(constructor, "architecture", None)
            known = {given for given, _ in rows}
            names = [] if row is None else [field.name for field in fields(row)]
            rows += [(field, repr(getattr(row, field))) for field in names if field not in known]
        elif parameter.default is parameter.empty:
            rows.append((name, "(required)"))
        else:
            rows.append((name, repr(parameter.default)))
    first = (constructor.__doc__ or "").partition("\n")[0]
    return described(first if first.startswith(constructor.__name__) else f"{constructor.__name__}: {first}", rows)


def instance_text(model: Model) -> str:
    """Return the model's class and name, and the arguments that it was built with."""
    config = model.get_config()
    config.pop("model", None)
    return described(f"{type(model).__name__} {model.name!r}", [(name, repr(value)) for name, value in config.items()])


def described(title: str, rows: list[tuple[str, object]]) -> str:
    indented = "\n".join(f"  {line}" for line in columns(rows).splitlines())
    return printable(f"{title}\n{indented}")
