"""The command line `resnet-rs`: classify images, look at models, time them, and say what the machine gives.

Exit codes: 0 done, 1 the work failed, 2 the command was wrong. Errors are one line on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .model import Model

__all__ = ["main"]

EXAMPLES = {
    "": """\
examples:
  resnet-rs predict cat.jpg dog.jpg --model resnet50 --weights resnet50.pth --classes classes.json
  resnet-rs list 'se*50'
  resnet-rs summary resnet18 --input-shape 96x96x96x4
  resnet-rs bench resnet50 --threads 2 --layers
  resnet-rs doctor""",
    "predict": """\
examples:
  resnet-rs predict cat.jpg --model resnet50 --weights resnet50.pth --classes classes.json
  resnet-rs predict *.jpg --model resnet50 --weights v1.safetensors --stride-in 1x1 --preprocess caffe --json
  resnet-rs predict cat.jpg --weights resnext50_32x4d.pth --classes classes.json
  resnet-rs predict scan.png --model saved.safetensors --top 3

--model is a name of `resnet-rs list` (and then needs --weights) or a file of `resnet_rs.save`. Without --model the
network is inferred from the weights. --classes is a JSON
list, a JSON object index -> name, or a text file with one name per line.""",
    "list": """\
examples:
  resnet-rs list
  resnet-rs list 'resnext*'""",
    "summary": """\
examples:
  resnet-rs summary resnet50
  resnet-rs summary resnet50.pth
  resnet-rs summary seresnet18 --input-shape 96x96x96x1 --num-classes 2""",
    "bench": """\
examples:
  resnet-rs bench resnet50
  resnet-rs bench resnet18 --input-shape 96x96x96x4 --layers""",
    "doctor": """\
examples:
  resnet-rs doctor
  RESNET_RS_ISA=avx2 resnet-rs doctor --json""",
}


class CommandError(Exception):
    """The work cannot be done; the message is what the user sees."""


# -- tables -------------------------------------------------------------------------------------------------------


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """A table by rich on a terminal where rich is installed, else plain columns that other programs can read."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass
        else:
            pretty = Table()
            for column, heading in enumerate(headings):
                pretty.add_column(heading, justify="right" if column in right else "left")
            for row in rows:
                pretty.add_row(*row)
            # Names from a file are text, not markup.
            Console(markup=False, highlight=False).print(pretty)
            return
    widths = [max(len(line[column]) for line in (headings, *rows)) for column in range(len(headings))]
    for line in (headings, ["-" * width for width in widths], *rows):
        aligned = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip())


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


# -- values of arguments --------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return value


def shape(text: str) -> tuple[int | None, ...]:
    """224x224x3, 224,224,3 or ?x?x3."""
    parts = text.replace(",", "x").split("x")
    try:
        sizes = tuple(None if part.strip() in ("?", "None") else positive(part) for part in parts)
    except argparse.ArgumentTypeError:
        sizes = ()
    if len(sizes) not in (3, 4) or sizes[-1] is None:
        raise argparse.ArgumentTypeError(f"expected HxWxC or DxHxWxC such as 224x224x3, got {text!r}")
    return sizes


# -- commands -------------------------------------------------------------------------------------------------------


def is_saved_model(name: str) -> bool:
    return name.endswith(".safetensors") or os.sep in name or Path(name).is_file()


def load_model(args: argparse.Namespace, num_classes: int | None) -> Model:
    import resnet_rs as rr

    options: dict[str, Any] = {"stride_in": args.stride_in} if args.stride_in else {}
    if args.input_size is not None:
        options["input_shape"] = (args.input_size, args.input_size, 3)
    if not args.model:
        return inferred_model(args, options)
    if is_saved_model(args.model):
        if args.weights:
            raise CommandError(f"{args.model} brings its own weights: leave --weights out, or give --model a name")
        return rr.load(args.model)
    if not args.weights:
        raise CommandError(f"--weights FILE is needed: without it {args.model} would guess at random")
    if num_classes is not None:
        options["num_classes"] = num_classes
    model = rr.create_model(args.model, **options)
    model.load_weights(args.weights, naming=args.naming)
    return model


def inferred_model(args: argparse.Namespace, options: dict[str, Any]) -> Model:
    import resnet_rs as rr

    if not args.weights:
        args.usage_error("one of --model and --weights is required")
    if args.naming != "auto":
        raise CommandError("--naming: without --model the weights tell whose names they have")
    if args.weights.endswith(".safetensors") and "config" in rr.weights.read_metadata(args.weights):
        return rr.load(args.weights)
    return rr.from_weights(args.weights, data_format="channels_last", classifier_activation="softmax", **options)


def predict(args: argparse.Namespace) -> int:
    import numpy as np

    from .errors import FileFormatError
    from .images import load_image, read_classes

    classes = read_classes(args.classes) if args.classes else None
    model = load_model(args, args.num_classes or (len(classes) if classes else None))
    if len(model.output_shape) != 2:
        raise CommandError(
            f"{args.model or args.weights} does not classify: its output has the shape {model.output_shape}"
        )
    outputs = model.output_shape[1] or 0
    if classes is not None and len(classes) != outputs:
        raise CommandError(f"{args.classes}: expected {outputs} names, one for each output, got {len(classes)}")

    results: list[dict[str, Any]] = []
    failures = 0
    height, width = model.input_shape[1:3]
    for path in args.images:
        try:
            x = load_image(path, (height or 224, width or 224), preprocess=args.preprocess, resize=args.resize)
        except (OSError, FileFormatError) as error:
            # The other images are still worth an answer.
            failures += 1
            fail(f"{path}: {message(error).removeprefix(f'{path}: ')}", args.command)
            continue
        start = time.perf_counter()
        scores = model.predict(x[None])[0]
        milliseconds = 1e3 * (time.perf_counter() - start)
        if not np.isfinite(scores).all():
            failures += 1
            fail(f"{path}: the network returned NaN or infinity: do weights and preprocessing fit?", args.command)
            continue
        results.append(
            {"image": path, "milliseconds": round(milliseconds, 3), "classes": best(scores, classes, args.top)}
        )
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


def best(scores: NDArray[np.float32], classes: list[str] | None, top: int) -> list[dict[str, Any]]:
    order = (-scores).argsort(kind="stable")[:top]
    return [
        {"index": int(index), "name": classes[index] if classes else "", "score": float(scores[index])}
        for index in order
    ]


def list_models(args: argparse.Namespace) -> int:
    from fnmatch import fnmatchcase

    import resnet_rs as rr

    names = [name for name in rr.list_models() if fnmatchcase(name.lower(), args.pattern.lower())]
    if not names:
        raise CommandError(f"no model is named {args.pattern!r}; `resnet-rs list` shows all")
    if args.json:
        print_json(names)
    else:
        print("\n".join(names))
    return 0


def create(args: argparse.Namespace) -> Model:
    import resnet_rs as rr

    options: dict[str, Any] = {}
    if args.input_shape is not None:
        options["input_shape"] = args.input_shape
    if args.num_classes is not None:
        options["num_classes"] = args.num_classes
    if is_saved_model(args.model):
        # A whole model, or weights that tell what they are of. Shapes of the command line have their channels last.
        layout = None if args.input_shape is None else "channels_last"
        return rr.from_weights(args.model, data_format=layout, **options)
    return rr.create_model(args.model, **options)


def summary(args: argparse.Namespace) -> int:
    create(args).summary()
    return 0


def bench(args: argparse.Namespace) -> int:
    import numpy as np

    import resnet_rs as rr

    model = create(args)
    sample = model.input_shape[1:]
    if None in sample:
        raise CommandError(f"{args.model} takes any size: choose one with --input-shape")
    x = np.random.default_rng(0).standard_normal((args.batch, *(size or 1 for size in sample)), dtype=np.float32)
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
    gflop = sum(layer["flops"] for layer in layers) / 1e9
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
    }
    if args.layers:
        result["layers"] = layers
    if args.json:
        print_json(result)
        return 0
    print(f"{model.name}, input {'x'.join(map(str, x.shape))}, {result['threads']} threads, {result['isa']}")
    print(f"median {median:.2f} ms of {len(milliseconds)} runs, p10 {deciles[0]:.2f}, p90 {deciles[-1]:.2f}, ", end="")
    print(f"first {first:.1f} (packs the weights)")
    print(f"{result['samples_per_second']:.1f} samples/s, {gflop:.2f} GFLOP, {result['gflop_per_second']:.0f} GFLOP/s")
    if args.layers:
        print_layers(layers)
    return 0


def print_layers(layers: list[dict[str, Any]]) -> None:
    total = sum(layer["milliseconds"] for layer in layers) or 1.0
    rows = [
        (
            layer["name"],
            layer["algorithm"],
            f"{layer['milliseconds']:.3f}",
            f"{100 * layer['milliseconds'] / total:.1f}",
            f"{layer['flops'] / 1e6 / layer['milliseconds']:.0f}" if layer["flops"] and layer["milliseconds"] else "",
        )
        for layer in layers
    ]
    print_table(("layer", "algorithm", "ms", "%", "GFLOP/s"), rows, right=(2, 3, 4))


def doctor(args: argparse.Namespace) -> int:
    from .doctor import findings, self_test

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


# -- the parser -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    from . import __version__

    def text(name: str) -> dict[str, Any]:
        return {
            "epilog": EXAMPLES[name],
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "allow_abbrev": False,
        }

    top = argparse.ArgumentParser(prog="resnet-rs", description="Residual networks on CPUs, in 2D and 3D.", **text(""))
    top.add_argument("--version", action="version", version=f"resnet-rs {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], description: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=description, description=description, **text(name))
        sub.set_defaults(run=run)
        # Also after the command; SUPPRESS keeps what was said before it.
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return sub

    sub = command("predict", predict, "Classify images.")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="image files (needs Pillow)")
    sub.set_defaults(usage_error=sub.error)
    sub.add_argument("--model", help="name of a model, or a file of resnet_rs.save (default: inferred from --weights)")
    sub.add_argument("--weights", metavar="FILE", help=".safetensors, .pth, .th or .ckpt")
    sub.add_argument(
        "--naming",
        default="auto",
        choices=("auto", "torchvision", "timm", "keras", "native"),
        help="whose names the weights have (default: recognise them)",
    )
    sub.add_argument("--classes", metavar="FILE", help="names of the classes")
    sub.add_argument("--num-classes", type=positive, metavar="N", help="default: as many as --classes has, or 1000")
    sub.add_argument("--top", type=positive, default=5, metavar="N", help="classes to show (default %(default)s)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument(
        "--preprocess",
        default="torchvision",
        choices=("torchvision", "caffe", "none"),
        help="torchvision: RGB / 255, normalised; caffe: RGB minus the mean; none: RGB 0..255 (default %(default)s)",
    )
    sub.add_argument("--input-size", type=positive, metavar="N", help="height and width of the input (default 224)")
    sub.add_argument(
        "--resize", type=positive, metavar="N", help="shorter side before the crop (default 8/7 of the input)"
    )
    sub.add_argument("--stride-in", choices=("3x3", "1x1"), help="where bottlenecks stride: v1.5 (default) or v1")
    sub.add_argument("--threads", type=positive, metavar="N", help="threads (default: all that the process may use)")

    sub = command("list", list_models, "List the models.")
    sub.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern, such as 'resnet*'")
    sub.add_argument("--json", action="store_true", help="print JSON")

    for name, run, description in (
        ("summary", summary, "Show the layers of a model, their shapes and parameters."),
        ("bench", bench, "Time a model on random input."),
    ):
        sub = command(name, run, description)
        sub.add_argument("model", metavar="MODEL", help="name of a model, or a file of weights or of resnet_rs.save")
        sub.add_argument("--input-shape", type=shape, metavar="SHAPE", help="HxWxC or DxHxWxC (default 224x224x3)")
        sub.add_argument("--num-classes", type=positive, metavar="N", help="default 1000")
        if name == "bench":
            sub.add_argument("--batch", type=positive, default=1, metavar="N", help="samples at once (default 1)")
            sub.add_argument("--threads", type=positive, metavar="N", help="threads (default: all)")
            sub.add_argument("--seconds", type=float, default=2.0, metavar="S", help="how long (default %(default)s)")
            sub.add_argument("--layers", action="store_true", help="time of each layer")
            sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("doctor", doctor, "Tell what the machine gives: processor, kernels, threads, limits, versions.")
    sub.add_argument("--json", action="store_true", help="print JSON")
    return top


# -- main -----------------------------------------------------------------------------------------------------------


def message(error: BaseException) -> str:
    """One line that says what is wrong."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fail(text: str, command: str | None = None) -> None:
    print(f"resnet-rs{f' {command}' if command else ''}: error: {text}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        from .errors import ResnetError
        from .runtime import set_num_threads

        if getattr(args, "threads", None):
            set_num_threads(args.threads)
        code: int = args.run(args)
        # Not at exit, where a closed pipe could no longer be caught.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has seen enough, as in `resnet-rs list | head`; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if args.debug:
            raise
        expected = isinstance(error, (CommandError, ResnetError, OSError, MemoryError, ImportError))
        fail(
            message(error)
            if expected
            else f"internal, please report: {type(error).__name__}: {message(error)} (--debug)",
            args.command,
        )
        return 1
