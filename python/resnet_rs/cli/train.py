"""The commands `train` and `eval`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import CommandError, print_json, print_table
from .recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from resnet_rs.training.data.dataset import Dataset

__all__ = ["EXAMPLES", "add_parsers"]

EXAMPLES = {
    "train": """\
examples:
  resnet-rs train pictures --epochs 20 --model resnet18 --size 64
  resnet-rs train recipe.yaml
  resnet-rs train recipe.yaml --resume

A folder with a folder of images per class is learnt by a classifier, one with images/ and masks/ (or labels/) of the
same names by a U-Net; images are pictures, or NIfTI volumes (.nii, .nii.gz). A recipe says everything else:
docs/training.md. In the output folder are the model (model.safetensors), the best of all epochs (best.safetensors), a
checkpoint to resume from, the history (history.csv) and the recipe. Ctrl-C ends with all of them written.""",
    "eval": """\
examples:
  resnet-rs eval pictures/trained
  resnet-rs eval pictures/trained --data other-pictures
  resnet-rs eval trained --model best.safetensors --json""",
}


def add_parsers(
    command: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
    positive: Callable[[str], int],
) -> None:
    """Add the two commands to the parser, with its function `command` and its type `positive`."""
    sub = command("train", train, "Train a model on a folder of images or volumes, or as a recipe says.")
    sub.add_argument("recipe", metavar="RECIPE|FOLDER", help="YAML or JSON file, or a folder of data")
    sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in the output folder")
    sub.add_argument("--model", metavar="NAME", help="a name of `list` (default resnet18, unet for masks)")
    sub.add_argument("--size", type=positive, metavar="N", help="height and width of the input")
    sub.add_argument("--epochs", type=positive, metavar="N", help="default 10")
    sub.add_argument("--batch-size", type=positive, metavar="N", help="default 32; 8 with masks, 1 for volumes")
    sub.add_argument("--seed", type=int, metavar="N", help="of everything that is random (default 0)")
    sub.add_argument("--weights", metavar="FILE", help="weights to begin with; what does not fit begins at random")
    sub.add_argument("--output", metavar="FOLDER", help="default: `trained` beside the recipe or in the folder")
    sub.add_argument("--threads", type=positive, metavar="N", help="threads (default: all that the process may use)")

    sub = command("eval", evaluate, "Evaluate what `train` has made.")
    sub.add_argument("trained", metavar="FOLDER", help="the output folder of `train`")
    sub.add_argument("--data", metavar="FOLDER", help="other data of the same kind (default: what was held out)")
    sub.add_argument(
        "--model", metavar="FILE", default="model.safetensors", help="of that folder (default %(default)s)"
    )
    sub.add_argument("--batch-size", type=positive, metavar="N", help="default: as in training")
    sub.add_argument("--threads", type=positive, metavar="N", help="threads (default: all that the process may use)")
    sub.add_argument("--json", action="store_true", help="print JSON")


def train(args: argparse.Namespace) -> int:
    import resnet_rs as rr

    recipe = read_recipe(args.recipe)
    override(recipe, args)
    training, validation, names = recipe.datasets()
    shape, classes = look(training, names, recipe)
    model = recipe.create(shape, classes)
    recipe.compile(model)
    recipe.model |= {"num_classes": classes}
    recipe.data |= {"classes": names} if recipe.segments else {}
    recipe.output.mkdir(parents=True, exist_ok=True)
    checkpoint = recipe.output / "checkpoint.safetensors"
    if args.resume and not checkpoint.is_file():
        raise CommandError(f"--resume: there is no {checkpoint}")
    recipe.write(recipe.output / "recipe.json")
    if names:
        (recipe.output / "classes.json").write_text(json.dumps(names), encoding="utf-8")
    monitor = model.metrics_names[1] if len(model.metrics_names) > 1 else "loss"
    monitor = monitor if validation is None else f"val_{monitor}"
    callbacks: list[rr.callbacks.Callback] = [
        rr.callbacks.TerminateOnNaN(),
        rr.callbacks.CSVLogger(recipe.output / "history.csv"),
        rr.callbacks.ModelCheckpoint(
            recipe.output / "best.safetensors", monitor=monitor, save_best_only=True, save_weights_only=False
        ),
        rr.callbacks.ModelCheckpoint(checkpoint),
    ]
    if "patience" in recipe.training:
        callbacks.append(rr.callbacks.EarlyStopping(monitor, patience=recipe.training["patience"]))
    print(
        f"{model.name}: {model.trainable_params:,} trainable parameters, {len(training)} samples, "
        f"{0 if validation is None else len(validation)} held out, {rr.get_num_threads()} threads"
    )
    history = model.fit(
        training,
        epochs=recipe.training.get("epochs", 10),
        validation_data=validation,
        class_weight=recipe.training.get("class_weight"),
        callbacks=callbacks,
        resume=checkpoint if args.resume else None,
    )
    rr.save(model, recipe.output / "model.safetensors")
    print(f"wrote {recipe.output / 'model.safetensors'}")
    return 130 if history.interrupted else 0


def override(recipe: Recipe, args: argparse.Namespace) -> None:
    """Let the command line have the last word."""
    for key in ("epochs", "batch_size", "seed"):
        if getattr(args, key, None) is not None:
            recipe.training[key] = getattr(args, key)
    if getattr(args, "weights", None):
        recipe.training["weights"] = str(Path(args.weights).resolve())
    if getattr(args, "model", None):
        recipe.model["name"] = args.model
    if getattr(args, "size", None):
        rank = 3 if recipe.volumes else 2
        recipe.data["size"] = [args.size] * rank
        if "input_shape" in recipe.model:
            recipe.model["input_shape"] = [*recipe.data["size"], recipe.model["input_shape"][-1]]
    if getattr(args, "output", None):
        recipe.output = Path(args.output)


def look(training: Dataset, names: list[str], recipe: Recipe) -> tuple[list[int], int]:
    """The shape of a sample and the number of classes: those of the names, or as the masks have."""
    import numpy as np

    batch = next(iter(training.subset(np.arange(1), workers=0)))
    shape = [int(size) for size in batch.x.shape[1:]]
    if "num_classes" in recipe.model:
        return shape, int(recipe.model["num_classes"])
    if names:
        return shape, 1 if len(names) == 1 else len(names)
    highest = 0
    for first in range(len(training)):
        y = training.fetch(np.array([first])).y
        highest = max(highest, 0 if y is None else int(y.max()))
    return shape, max(2, highest + 1)


def evaluate(args: argparse.Namespace) -> int:
    import resnet_rs as rr

    folder = Path(args.trained)
    if not (folder / "recipe.json").is_file():
        raise CommandError(f"{folder}: expected the output folder of `resnet-rs train`, with a recipe.json")
    recipe = read_recipe(str(folder / "recipe.json"))
    if args.batch_size is not None:
        recipe.training["batch_size"] = args.batch_size
    names = list(recipe.data.get("classes") or [])
    if args.data is not None:
        other = read_recipe(args.data)
        recipe.data = {
            **{
                key: value
                for key, value in recipe.data.items()
                if key not in ("folder", "validation_folder", "images", "masks")
            },
            **{key: str(other.path(key).resolve()) for key in ("folder", "images", "masks") if key in other.data},
            "validation": 0,
        }
        recipe.data.pop("augment", None)
        held: Dataset | None
        held, _, names = recipe.datasets()
    else:
        _, held, names = recipe.datasets()
        if held is None:
            raise CommandError(f"{folder}: nothing was held out in training: say --data FOLDER")
    model = rr.load(folder / args.model)
    recipe.compile(model)
    matrix = rr.metrics.ConfusionMatrix()
    compiled = model._require_compiled("eval")
    matrix.from_logits = compiled.output.logits
    compiled.metrics.append(matrix)
    found: dict[str, Any] = model.evaluate(held, verbose=0, return_dict=True)
    counts = found.pop("confusion_matrix")
    result = {name: value for name, value in found.items() if isinstance(value, float)}
    rows = per_class(counts, names)
    if args.json:
        print_json({"samples": len(held), **result, "classes": rows})
        return 0
    print_table(
        ("samples", *result), [(str(len(held)), *(f"{value:.4f}" for value in result.values()))], right=(0, 1, 2)
    )
    print_table(
        ("class", "name", "count", "recall", "precision", "dice"),
        [
            (
                str(row["class"]),
                row["name"],
                f"{row['count']:.0f}",
                *(shown(row[key]) for key in ("recall", "precision", "dice")),
            )
            for row in rows
        ],
        right=(0, 2, 3, 4, 5),
    )
    return 0


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def per_class(counts: Any, names: list[str]) -> list[dict[str, Any]]:
    """Recall, precision and Dice of each class from a confusion matrix; None where nothing is known."""
    rows = []
    for number in range(len(counts)):
        right, truth, guess = counts[number, number], counts[number].sum(), counts[:, number].sum()
        rows.append(
            {
                "class": number,
                "name": names[number] if number < len(names) else "",
                "count": float(truth),
                "recall": float(right / truth) if truth else None,
                "precision": float(right / guess) if guess else None,
                "dice": float(2 * right / (truth + guess)) if truth + guess else None,
            }
        )
    return rows
