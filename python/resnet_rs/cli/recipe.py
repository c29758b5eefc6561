"""A training as a file or a folder says it: model, data, optimiser, all names and values checked.

A recipe is a YAML or JSON file of four parts:

    model: {name: resnet18, input_shape: [64, 64, 3], num_classes: 2}
    data: {folder: pictures, validation: 0.2, augment: [{RandomFlip: {axes: 1}}]}
    training: {epochs: 20, batch_size: 32, optimizer: {SGD: {learning_rate: {Cosine: {learning_rate: 0.1}}}}}
    output: trained

Classes of `resnet_rs.optimizers`, `schedules`, `losses`, `metrics` and `data` are named as they are in Python, with
their arguments; a class without arguments is its name alone. A folder instead of a file stands for a recipe with
defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import CommandError

if TYPE_CHECKING:
    from resnet_rs.model import Model
    from resnet_rs.training.data.augmentation import Augmentation
    from resnet_rs.training.data.dataset import Dataset

__all__ = ["Recipe", "read_recipe"]

# Part -> its keys.
KEYS = {
    "": ("model", "data", "training", "output"),
    "data": (
        "folder",
        "validation_folder",
        "images",
        "masks",
        "validation",
        "size",
        "channels",
        "classes",
        "mask_values",
        "normalise",
        "augment",
        "cache",
    ),
    "training": (
        "epochs",
        "batch_size",
        "optimizer",
        "loss",
        "metrics",
        "weights",
        "adapt",
        "freeze",
        "learning_rate_factors",
        "class_weight",
        "accumulate",
        "recompute",
        "seed",
        "patience",
        "workers",
    ),
}
# Of a mask folder beside `images`.
MASK_FOLDERS = ("masks", "labels")


def check_keys(part: str, values: object) -> dict[str, Any]:
    """Return a part of a recipe.

    Raises:
        CommandError: it has a key that does not exist; the message suggests the nearest.
    """
    from resnet_rs.errors import suggest

    name = part or "recipe"
    if not isinstance(values, Mapping):
        raise CommandError(f"{name}: expected keys {', '.join(KEYS[part])}, got {values!r}")
    for key in values:
        if key not in KEYS[part]:
            raise CommandError(f"{name}: unknown key {key!r}{suggest(str(key), KEYS[part])}")
    return dict(values)


def build(what: str, value: object, module: Any) -> Any:
    """Make what a recipe names: `Name`, or `{Name: {argument: value}}`; values may be such themselves.

    Raises:
        CommandError: the module has no such class, or it has no such argument.
    """
    from resnet_rs.errors import ResnetError, suggest

    arguments: Any = None
    if not isinstance(value, Mapping):
        name = str(value)
    elif len(value) == 1:
        [(name, arguments)] = value.items()
    else:
        raise CommandError(f"{what}: expected one name with its arguments, got {sorted(map(str, value))}")
    # Modules with names that are imported when used list them themselves.
    names = module.__dir__() if "__dir__" in vars(module) else module.__all__
    known = [entry for entry in names if entry[0].isupper()]
    if name not in known:
        raise CommandError(f"{what}: expected one of {', '.join(known)}, got {name!r}{suggest(str(name), known)}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise CommandError(f"{what}: expected arguments of {name} by name, got {arguments!r}")
    try:
        return getattr(module, str(name))(**{key: inner(f"{what}.{key}", entry) for key, entry in arguments.items()})
    except (ResnetError, TypeError) as error:
        raise CommandError(f"{what}: {error}") from error


def has_volumes(folder: Path) -> bool:
    """Whether there are NIfTI volumes in a folder."""
    return any(path.name.endswith((".nii", ".nii.gz")) for path in folder.iterdir())


def inner(what: str, value: object) -> object:
    """An argument: a schedule, or what it is."""
    import resnet_rs as rr

    if isinstance(value, Mapping):
        return build(what, value, rr.schedules)
    if isinstance(value, list):
        return [inner(what, entry) for entry in value]
    return value


class Recipe:
    """What is to be trained on what and how."""

    def __init__(self, parts: Mapping[str, Any], base: Path) -> None:
        self.parts = check_keys("", parts)
        self.data = check_keys("data", self.parts.get("data", {}))
        self.training = check_keys("training", self.parts.get("training", {}))
        self.base = base
        model = self.parts.get("model", "resnet18")
        self.model: dict[str, Any] = {"name": model} if isinstance(model, str) else dict(model)
        if not isinstance(self.model.get("name"), str):
            raise CommandError(f"model: expected a name of `resnet-rs list`, or keys with a name, got {model!r}")
        self.output = base / str(self.parts.get("output", "trained"))

    @property
    def segments(self) -> bool:
        """Whether the targets are masks."""
        return "images" in self.data or "masks" in self.data

    @property
    def volumes(self) -> bool:
        """Whether the images are NIfTI volumes."""
        return self.segments and has_volumes(self.path("images"))

    def path(self, key: str) -> Path:
        """A path of `data`, relative to the recipe."""
        value = self.data.get(key)
        if not isinstance(value, str):
            raise CommandError(f"data: expected the path {key!r}, got {value!r}")
        path = self.base / value
        if not path.is_dir():
            raise CommandError(f"data: {key}: no folder {path}")
        return path

    def datasets(self) -> tuple[Dataset, Dataset | None, list[str]]:
        """Return training data, validation data, and the names of the classes as far as there are any."""
        import resnet_rs as rr

        augment = [build(f"data.augment[{i}]", item, rr.data) for i, item in enumerate(self.data.get("augment", []))]
        options: dict[str, Any] = {
            "batch_size": self.training.get("batch_size", 1 if self.volumes else 8 if self.segments else 32),
            "seed": self.training.get("seed", 0),
            "workers": self.training.get("workers", 1),
            "cache": self.data.get("cache", True),
        }
        whole: Dataset
        always: list[Augmentation] = []
        names = list(self.data.get("classes") or [])
        if self.volumes:
            size = self.data.get("size") or self.model.get("input_shape", [64, 64, 64, 1])[:3]
            normalise = self.data.get("normalise", "zscore")
            folders = self.path("images"), self.path("masks")
            whole = rr.data.NiftiFolder(*folders, size, normalise=normalise, augment=augment, **options)
        else:
            if "normalise" in self.data and not self.segments:
                raise CommandError("data: normalise is for volumes and masks; a classifier scales pixels itself")
            size = self.data.get("size") or self.model.get("input_shape", [224, 224, 3])[:2]
            options |= {"channels": self.data.get("channels", 3), "augment": augment}
            if self.segments:
                values = self.data.get("mask_values")
                mean, std = self.data.get("normalise", (127.5, 127.5))
                scale = rr.data.Normalize(mean, std)
                options["augment"] = [*augment, scale]
                always.append(scale)
                folders = self.path("images"), self.path("masks")
                whole = rr.data.ImageMaskFolder(*folders, size, mask_values=values, **options)
            else:
                pictures = rr.data.ImageFolder(self.path("folder"), size, **options)
                whole, names = pictures, pictures.classes
                if "validation_folder" in self.data:
                    held = rr.data.ImageFolder(
                        self.path("validation_folder"), size, **{**options, "augment": (), "shuffle": False}
                    )
                    if held.classes != names:
                        raise CommandError(f"data: validation_folder: expected the classes {names}, got {held.classes}")
                    return whole, held, names
        return *self.hold_out(whole, always), names

    def hold_out(self, whole: Dataset, always: list[Augmentation]) -> tuple[Dataset, Dataset | None]:
        """Hold samples out: a fraction at random (by the seed), or every n-th for an int n >= 2.

        `always` is what is done to those that are held out, too.
        """
        import numpy as np

        share = self.data.get("validation", 0.2)
        count = len(whole)
        if share == 0:
            return whole, None
        if isinstance(share, int) and not isinstance(share, bool) and share >= 2:
            held = np.arange(0, count, share)
        elif isinstance(share, float) and 0 < share < 1:
            held = np.sort(
                np.random.default_rng(self.training.get("seed", 0)).permutation(count)[: round(count * share)]
            )
        else:
            raise CommandError(f"data: validation: expected a fraction, or an int n >= 2 for every n-th, got {share!r}")
        rest = np.setdiff1d(np.arange(count), held)
        if not len(rest) or not len(held):
            raise CommandError(
                f"data: validation: {share} of {count} samples leaves nothing to train or to validate on"
            )
        return whole.subset(rest), whole.subset(held, shuffle=False, augment=always)

    def create(self, sample_shape: Sequence[int], classes: int) -> Model:
        """Build the model for samples of a shape."""
        import resnet_rs as rr

        options = {key: value for key, value in self.model.items() if key != "name"}
        name = self.model["name"]
        options.setdefault("input_shape", list(sample_shape))
        options.setdefault("num_classes", classes)
        options.setdefault("classifier_activation", "softmax" if options["num_classes"] > 1 else "sigmoid")
        if not self.segments:
            options.setdefault("include_rescaling", True)
        model = rr.create_model(name, **options)
        weights = self.training.get("weights")
        if weights is not None:
            report = model.load_weights(self.base / weights, strict=False, adapt=self.training.get("adapt", False))
            print(report)
        if "freeze" in self.training:
            model.freeze(self.training["freeze"])
        return model

    def compile(self, model: Model) -> None:
        """Compile the model as the recipe says, or as is usual for its kind."""
        import resnet_rs as rr

        training = self.training
        binary = model.output_channels() == 1
        form = "binary" if binary else "sparse"
        usual = f"{form}_dice_ce" if self.segments else f"{form}{'' if binary else '_categorical'}_crossentropy"
        metrics = training.get("metrics", ["dice" if self.segments else "accuracy"])
        model.compile(
            optimizer=self.named("optimizer", {"AdamW": {"learning_rate": {"OneCycle": {"learning_rate": 0.001}}}}),
            loss=self.named("loss", usual),
            metrics=[
                metric
                if isinstance(metric, str) and metric[:1].islower()
                else build("training.metrics", metric, rr.metrics)
                for metric in metrics
            ],
            learning_rate_factors=training.get("learning_rate_factors"),
            accumulate=training.get("accumulate", 1),
            recompute=training.get("recompute", False),
            seed=training.get("seed", 0),
        )

    def named(self, key: str, usual: object) -> Any:
        """An optimiser or a loss: a name such as "sgd", or a class with arguments."""
        import resnet_rs as rr

        value = self.training.get(key, usual)
        if isinstance(value, str) and not value[:1].isupper():
            return value
        module: Any = rr.optimizers if key == "optimizer" else rr.losses
        return build(f"training.{key}", value, module)

    def write(self, path: Path) -> None:
        """Write the recipe as JSON, paths relative to the file's folder made absolute."""
        data = {
            key: str((self.base / value).resolve())
            if key in ("folder", "validation_folder", "images", "masks")
            else value
            for key, value in self.data.items()
        }
        parts = {"model": self.model, "data": data, "training": self.training, "output": str(self.output.resolve())}
        path.write_text(json.dumps(parts, indent=2), encoding="utf-8")


def read_recipe(source: str) -> Recipe:
    """Read a recipe from a YAML or JSON file, or make the usual one for a folder.

    A folder with a folder per class (or `train` and `val` of such) is for classification, one with `images` and
    `masks` (or `labels`) for segmentation.

    Raises:
        CommandError: neither, or a recipe with something in it that there is not.
    """
    path = Path(source)
    if path.is_dir():
        masks = next((name for name in MASK_FOLDERS if (path / name).is_dir()), None)
        if (path / "images").is_dir() and masks:
            data: dict[str, Any] = {"images": "images", "masks": masks}
            volumes = has_volumes(path / "images")
            shape = [64, 64, 64, 1] if volumes else [256, 256, 3]
            model = {"name": "unet", "encoder_name": "resnet18", "input_shape": shape}
            parts: dict[str, Any] = {"model": model, "data": data}
        else:
            data = {"folder": "."}
            for training, validation in (("train", "val"), ("train", "validation"), ("train", "test")):
                if (path / training).is_dir() and (path / validation).is_dir():
                    data = {"folder": training, "validation_folder": validation}
                    break
            data["augment"] = ["RandomFlip"]
            parts = {"model": {"name": "resnet18"}, "data": data}
        return Recipe(parts, path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            parts = json.loads(text)
        except ValueError as error:
            raise CommandError(f"{source}: expected JSON, got: {error}") from None
    else:
        try:
            import yaml
        except ImportError as error:
            raise ImportError('reading YAML needs PyYAML: pip install "resnet-rs[yaml]"') from error
        try:
            parts = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise CommandError(f"{source}: expected YAML, got: {' '.join(str(error).split())}") from None
    return Recipe(parts, path.parent)
