"""The commands: each takes the parsed arguments and returns the exit code."""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .output import CommandError, fail, message, print_json, print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from resnet_rs.model import Model

__all__ = ["bench", "doctor", "list_models", "predict", "summary"]

# Height and width where neither the command nor the model says one.
SIZE = 224


def is_file(name: str) -> bool:
    return name.endswith(".safetensors") or os.sep in name or Path(name).is_file()


def is_name(weights: str) -> bool:
    """Whether weights are named, as those that come with the package, rather than a file."""
    return not is_file(weights) and not Path(weights).suffix


# -- predict --------------------------------------------------------------------------------------------------------


def predict(args: argparse.Namespace) -> int:
    import numpy as np

    from resnet_rs.errors import FileFormatError, ShapeError
    from resnet_rs.images import best, load_image, read_classes

    classes = read_classes(args.classes) if args.classes else None
    model = load_model(args, args.num_classes or (len(classes) if classes else None))
    height, width = check_classifier(model, args, classes)
    classes = classes or list(model.classes)
    preprocessing = args.preprocess or model.preprocessing or "torchvision"
    first = model.data_format == "channels_first"

    results: list[dict[str, Any]] = []
    failures = 0
    for path in args.images:
        try:
            x = load_image(path, (height, width), preprocess=preprocessing, resize=args.resize)
        except (OSError, FileFormatError, ShapeError) as error:
            # The other images are still worth an answer.
            failures += 1
            fail(f"{path}: {message(error).removeprefix(f'{path}: ')}", args.command)
            continue
        batch = x.transpose(2, 0, 1)[None] if first else x[None]
        if not results:
            model.predict(batch)  # plans the network and packs its weights: no image's time
        start = time.perf_counter()
        scores = model.predict(batch)[0]
        milliseconds = 1e3 * (time.perf_counter() - start)
        if not np.isfinite(scores).all():
            failures += 1
            fail(f"{path}: the network returned NaN or infinity: do weights and preprocessing fit?", args.command)
            continue
        entries = [
            {"index": index, "name": classes[index] if classes else "", "score": score}
            for index, score in best(scores, args.top)
        ]
        results.append({"image": path, "milliseconds": round(milliseconds, 3), "classes": entries})
    if args.json:
        print_json(results)
    elif results:
        print_table(
            ("image", "class", "name", "score", "ms"),
            [
                (
                    "" if place else result["image"],
                    str(entry["index"]),
                    entry["name"],
                    f"{entry['score']:.4f}",
                    "" if place else f"{result['milliseconds']:.1f}",
                )
                for result in results
                for place, entry in enumerate(result["classes"])
            ],
            right=(1, 3, 4),
        )
    return 1 if failures else 0


def load_model(args: argparse.Namespace, num_classes: int | None) -> Model:
    """The model that the arguments name, with its weights."""
    import resnet_rs as rr
    from resnet_rs.models.registry import find
    from resnet_rs.models.shipped import SHIPPED, shipped_file

    options: dict[str, Any] = {"stride_in": args.stride_in} if args.stride_in else {}
    if args.model and not is_file(args.model):
        if args.model in rr.list_models("segmentation"):
            raise CommandError(f"{args.model} does not classify: its output is a map")
        if not args.weights:
            raise CommandError(f"--weights FILE is needed: without it {args.model} would guess at random")
        shipped = is_name(args.weights)
        if shipped:
            shipped_file(find(args.model).__name__, args.weights)  # an error of its own where there are none
            if args.naming != "auto":
                raise CommandError(f"--naming: {args.weights} come with the package; a file may have other names")
            options["weights"] = args.weights
        if args.input_size is not None:
            options |= {"input_shape": (args.input_size, args.input_size, 3), "data_format": "channels_last"}
        if num_classes is not None:
            options["num_classes"] = num_classes
        model = rr.create_model(args.model, **options)
        if not shipped:
            model.load_weights(args.weights, naming=args.naming)
        return model
    if args.model and args.weights:
        raise CommandError(f"{args.model} brings its own weights: leave --weights out, or give --model a name")
    path = args.model or args.weights
    if not path:
        args.usage_error("one of --model and --weights is required")
    if is_name(path) and path in SHIPPED:
        raise CommandError(f"--weights {path} needs --model {SHIPPED[path][0].lower()}")
    if args.naming != "auto":
        raise CommandError(f"--naming: {path} tells itself whose names it has; --model NAME takes others")
    if args.input_size is not None:
        options |= {"input_shape": (args.input_size, args.input_size, 3), "data_format": "channels_last"}
    if args.model or (path.endswith(".safetensors") and "config" in rr.weights.read_metadata(path)):
        model = rr.load(path, **options)
    else:
        options = {"data_format": "channels_last", "classifier_activation": "softmax", **options}
        model = rr.from_weights(path, **options)
    if args.num_classes is not None and model.output_shape[-1] != args.num_classes:
        raise CommandError(f"--num-classes: {path} has {model.output_shape[-1]} classes, got {args.num_classes}")
    return model


def check_classifier(model: Model, args: argparse.Namespace, classes: list[str] | None) -> tuple[int, int]:
    """The height and width of the images that the model classifies."""
    what = args.model or args.weights
    if len(model.output_shape) != 2:
        raise CommandError(f"{what} does not classify: its output has the shape {model.output_shape}")
    if len(model.input_shape) != 4:
        raise CommandError(f"{what} does not take images: its input has the shape {model.input_shape}")
    first = model.data_format == "channels_first"
    channels = model.input_shape[1 if first else -1]
    if channels != 3:
        raise CommandError(f"{what} does not take images of RGB: its input has {channels} channels")
    outputs = model.output_shape[1] or 0
    if classes is not None and len(classes) != outputs:
        raise CommandError(f"{args.classes}: expected {outputs} names, one for each output, got {len(classes)}")
    height, width = model.input_shape[2:] if first else model.input_shape[1:3]
    return height or SIZE, width or SIZE


# -- list, summary ----------------------------------------------------------------------------------------------------


def list_models(args: argparse.Namespace) -> int:
    import resnet_rs as rr
    from resnet_rs.errors import suggest

    names = list(rr.list_models(pattern=args.pattern))
    if not names:
        hint = suggest(args.pattern, rr.list_models()) or "; `resnet-rs list` shows all"
        raise CommandError(f"no model is named {args.pattern!r}{hint}")
    if args.json:
        print_json(names)
    else:
        print("\n".join(names))
    return 0


def create(args: argparse.Namespace) -> Model:
    """The model that `summary` and `bench` are asked about; random weights unless it is a file."""
    import resnet_rs as rr

    options: dict[str, Any] = {}
    if args.input_shape is not None:
        # Shapes of the command line have their channels last.
        options |= {"input_shape": args.input_shape, "data_format": "channels_last"}
    if args.num_classes is not None:
        options["num_classes"] = args.num_classes
    segmentor = not is_file(args.model) and args.model in rr.list_models("segmentation")
    if args.encoder is not None and not segmentor:
        raise CommandError(f"--encoder: {args.model} has none")
    if is_file(args.model):
        # A whole model, or weights that tell what they are of.
        return rr.from_weights(args.model, **options)
    if segmentor:
        if args.encoder is None:
            raise CommandError(f"{args.model} needs --encoder NAME, such as resnet18")
        options = {"input_shape": (SIZE, SIZE, 3), "encoder_name": args.encoder, **options}
    return rr.create_model(args.model, **options)


def summary(args: argparse.Namespace) -> int:
    create(args).summary()
    return 0


# -- bench ------------------------------------------------------------------------------------------------------------


def bench(args: argparse.Namespace) -> int:
    import resnet_rs as rr

    model = create(args)
    x = random_batch(model, args)
    start = time.perf_counter()
    model.predict(x, batch_size=args.batch)
    first = 1e3 * (time.perf_counter() - start)
    milliseconds: list[float] = []
    # As many runs as fit into the time, but enough for a median.
    deadline = time.perf_counter() + args.seconds
    while len(milliseconds) < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        model.predict(x, batch_size=args.batch)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    median = statistics.median(milliseconds)
    deciles = statistics.quantiles(milliseconds, n=10)
    layers = model.profile(x)
    gflop = layers.flops / 1e9
    result: dict[str, Any] = {
        "model": model.name,
        "input_shape": list(x.shape),
        "threads": rr.get_num_threads(),
        "isa": rr.cpu_info()["isa"],
        "runs": len(milliseconds),
        "median_ms": median,
        "p10_ms": deciles[0],
        "p90_ms": deciles[-1],
        "first_ms": first,
        "samples_per_second": args.batch * 1e3 / median,
        "gflop": gflop,
        "gflop_per_second": gflop / median * 1e3,
        "peak_gflop_per_second": layers.peak,
    }
    if args.layers:
        result["layers"] = list(layers)
    if args.json:
        print_json(result)
        return 0
    print(f"{model.name}, input {'x'.join(map(str, x.shape))}, {result['threads']} threads, {result['isa']}")
    print(f"median {median:.2f} ms of {len(milliseconds)} runs, p10 {deciles[0]:.2f}, p90 {deciles[-1]:.2f}, ", end="")
    print(f"first {first:.1f} (packs the weights)")
    speed = result["gflop_per_second"]
    print(f"{result['samples_per_second']:.1f} samples/s, {gflop:.2f} GFLOP, {speed:.0f} GFLOP/s, ", end="")
    print(f"{speed / layers.peak:.0%} of the arithmetic peak")
    if args.layers:
        print_table(layers.HEADINGS, layers.cells(), right=layers.RIGHT)
    return 0


def random_batch(model: Model, args: argparse.Namespace) -> NDArray[np.float32]:
    """Random input of the model's shape."""
    import numpy as np

    from resnet_rs.runtime import require_memory

    sample = model.input_shape[1:]
    if None in sample:
        raise CommandError(f"{args.model} takes any size: choose one with --input-shape")
    shape = (args.batch, *(size or 1 for size in sample))
    require_memory(4 * math.prod(shape), f"a batch of shape {shape}")
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


# -- doctor -----------------------------------------------------------------------------------------------------------


def doctor(args: argparse.Namespace) -> int:
    from resnet_rs.doctor import findings, self_test

    found = findings()
    problems = self_test()
    found["self-test"] = "; ".join(problems) or "passed"
    if args.json:
        print_json(found)
    else:
        width = max(map(len, found))
        for key, value in found.items():
            print(f"{key.ljust(width)}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return 1 if problems else 0
