"""`Described`: what is known of a model besides its configuration and weights; it goes with it into files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError

if TYPE_CHECKING:
    from .images import Preprocessing

__all__ = ["METADATA", "Described"]

# What the metadata of our files may hold: of models, and in checkpoints what a training is.
METADATA = ("format", "version", "config", "notes", "classes", "preprocessing", "training")


class Described:
    """Notes, names of the classes, and how images become inputs: as far as they are known. Base of `Model`."""

    # Lines that `summary` shows below the totals.
    notes: tuple[str, ...] = ()
    _classes: tuple[str, ...] = ()
    _preprocessing: Preprocessing | None = None

    if TYPE_CHECKING:  # of Differentiable

        def output_channels(self) -> int: ...
        def get_config(self) -> dict[str, Any]: ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the outputs; () where they are not known. May be set at any time.

        Shipped weights and files of `rr.save` bring them along; `resnet-rs predict` prints them.

        Raises:
            ArgumentError: when set to anything but one string for each output, or ().

        >>> import resnet_rs as rr
        >>> model = rr.models.ResNet20(num_classes=3)
        >>> model.classes = ["cat", "dog", "frog"]
        >>> model.classes
        ('cat', 'dog', 'frog')
        """
        return self._classes

    @classes.setter
    def classes(self, names: Sequence[str]) -> None:
        outputs = self.output_channels()
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ArgumentError(f"classes: expected a sequence of {outputs} names, got {type(names).__name__}")
        for position, name in enumerate(names):
            if not isinstance(name, str):
                raise ArgumentError(f"classes[{position}]: expected a name, got {type(name).__name__}")
        if len(names) not in (0, outputs):
            raise ArgumentError(f"classes: expected {outputs} names, one for each output, got {len(names)}")
        self._classes = tuple(names)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images become inputs, for `rr.images.load_image`; None where it is not known. May be set at any time.

        Shipped weights and files of `rr.save` bring it along; `resnet-rs predict` goes by it.

        Raises:
            ArgumentError: when set to anything but a `Preprocessing`, a key of `PREPROCESSING`, or None.

        >>> import resnet_rs as rr
        >>> model = rr.models.ResNet20()
        >>> model.preprocessing = "caffe"
        >>> model.preprocessing.mean
        (123.68, 116.779, 103.939)
        """
        return self._preprocessing

    @preprocessing.setter
    def preprocessing(self, value: str | Preprocessing | None) -> None:
        from .images import check_preprocessing

        self._preprocessing = None if value is None else check_preprocessing("preprocessing", value)

    def _description(self) -> dict[str, str]:
        """What is known, as strings for the metadata of a file."""
        known: dict[str, object] = {}
        if self.notes:
            known["notes"] = self.notes
        if self._classes:
            known["classes"] = self._classes
        if self._preprocessing is not None:
            known["preprocessing"] = self._preprocessing._asdict()
        return {name: json.dumps(value) for name, value in known.items()}

    def _metadata(self) -> dict[str, str]:
        """What a file says of a model besides its weights; `rr.load` needs no more. Names are of `METADATA`."""
        from . import __version__

        config = json.dumps(self.get_config())
        return {"format": "resnet_rs", "version": __version__, "config": config, **self._description()}

    def _describe(self, metadata: Mapping[str, str]) -> None:
        """Take over what `_description` has written.

        Raises:
            ValueError, TypeError: it is something else; `ArgumentError` among them.
        """
        from .images import Preprocessing

        notes = json.loads(metadata.get("notes", "[]"))
        self.notes = tuple(map(str, notes)) if isinstance(notes, list) else ()
        self.classes = json.loads(metadata.get("classes", "[]"))
        found = json.loads(metadata.get("preprocessing", "null"))
        self.preprocessing = None if found is None else Preprocessing(**found)
