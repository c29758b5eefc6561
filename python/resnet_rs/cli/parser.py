"""What can be said on the command line: commands, their arguments, help and examples."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from . import commands, train
from .output import fail, message

__all__ = ["NAMINGS", "parser"]

# Those of `weights.match`, which is not imported for the help.
NAMINGS = ("auto", "torchvision", "timm", "keras", "lucid", "netspresso", "native")

EXAMPLES = {
    "": """\
examples:
  resnet-rs predict cat.jpg dog.jpg --model resnet50 --weights resnet50.pth --classes classes.json
  resnet-rs list 'se*50'
  resnet-rs summary resnet18 --input-shape 96x96x96x4
  resnet-rs bench resnet50 --threads 2 --layers
  resnet-rs train pictures --model resnet18 --size 64 --epochs 20
  resnet-rs eval pictures/trained
  resnet-rs doctor""",
    "predict": """\
examples:
  resnet-rs predict cat.jpg --model resnet50 --weights resnet50.pth --classes classes.json
  resnet-rs predict *.jpg --model resnet50 --weights v1.safetensors --stride-in 1x1 --preprocess caffe --json
  resnet-rs predict cat.jpg --weights resnext50_32x4d.pth --classes classes.json
  resnet-rs predict scan.png --model saved.safetensors --top 3
  resnet-rs predict cat.jpg --model resnet20 --weights cifar10

--model is a name of `resnet-rs list` (and then needs --weights) or a file of `resnet_rs.save`. Without --model the
network is inferred from the weights. Weights of the package (cifar10) know their preprocessing and classes, as files of
`resnet_rs.save` do that were told. --classes is a JSON list, a JSON object index -> name, or a text file with one name
per line. The time of an image is that of the network; plans and packed weights are made before the first.""",
    "list": """\
examples:
  resnet-rs list
  resnet-rs list 'resnext*'""",
    "summary": """\
examples:
  resnet-rs summary resnet50
  resnet-rs summary resnet50.pth
  resnet-rs summary seresnet18 --input-shape 96x96x96x1 --num-classes 2
  resnet-rs summary unet --encoder resnet18 --input-shape 96x96x96x1""",
    "bench": """\
examples:
  resnet-rs bench resnet50
  resnet-rs bench resnet18 --input-shape 96x96x96x4 --layers
  resnet-rs bench unet --encoder resnet18 --input-shape 256x256x3""",
    "doctor": """\
examples:
  resnet-rs doctor
  RESNET_RS_ISA=avx2 resnet-rs doctor --json""",
    **train.EXAMPLES,
}


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return value


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds >= 0, got {text!r}")
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


class Version(argparse.Action):
    """Prints the version and exits. Only now is the engine imported, which reads the environment and may refuse it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from resnet_rs.errors import ResnetError

        try:
            from resnet_rs import __version__
        except ResnetError as error:
            fail(message(error))
            parser.exit(1)
        print(f"resnet-rs {__version__}")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    def text(name: str) -> dict[str, Any]:
        return {
            "epilog": EXAMPLES[name],
            "formatter_class": argparse.RawDescriptionHelpFormatter,
            "allow_abbrev": False,
        }

    top = argparse.ArgumentParser(prog="resnet-rs", description="Residual networks on CPUs, in 2D and 3D.", **text(""))
    top.add_argument("--version", action=Version, nargs=0, help="show the version and exit")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], description: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=description, description=description, **text(name))
        sub.set_defaults(run=run)
        # Also after the command; SUPPRESS keeps what was said before it.
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return sub

    sub = command("predict", commands.predict, "Classify images.")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="image files (needs Pillow)")
    sub.set_defaults(usage_error=sub.error)
    sub.add_argument("--model", help="name of a model, or a file of resnet_rs.save (default: inferred from --weights)")
    sub.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help=".safetensors, .pth, .pt, .th, .ckpt, .h5, .keras or .npz; or cifar10, which comes with resnet20",
    )
    sub.add_argument(
        "--naming",
        default="auto",
        choices=NAMINGS,
        help="whose names the weights have (default: recognise them)",
    )
    sub.add_argument("--classes", metavar="FILE", help="names of the classes (default: the model's)")
    sub.add_argument("--num-classes", type=positive, metavar="N", help="default: as many as --classes has, or 1000")
    sub.add_argument("--top", type=positive, default=5, metavar="N", help="classes to show (default %(default)s)")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument(
        "--preprocess",
        choices=("torchvision", "caffe", "none"),
        help="torchvision: RGB / 255, normalised; caffe: RGB minus the mean; none: RGB 0..255 (default: what the model "
        "was trained with where it knows, else torchvision)",
    )
    sub.add_argument("--input-size", type=positive, metavar="N", help="height and width (default: the model's, or 224)")
    sub.add_argument(
        "--resize", type=positive, metavar="N", help="shorter side before the crop (default: by --preprocess)"
    )
    sub.add_argument("--stride-in", choices=("3x3", "1x1"), help="where bottlenecks stride: v1.5 (default) or v1")
    sub.add_argument("--threads", type=positive, metavar="N", help="threads (default: all that the process may use)")

    sub = command("list", commands.list_models, "List the models.")
    sub.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern, such as 'resnet*'")
    sub.add_argument("--json", action="store_true", help="print JSON")

    for name, run, description in (
        ("summary", commands.summary, "Show the layers of a model, their shapes and parameters."),
        ("bench", commands.bench, "Time a model on random input."),
    ):
        sub = command(name, run, description)
        sub.add_argument("model", metavar="MODEL", help="name of a model, or a file of weights or of resnet_rs.save")
        sub.add_argument("--input-shape", type=shape, metavar="SHAPE", help="HxWxC or DxHxWxC (default 224x224x3)")
        sub.add_argument("--num-classes", type=positive, metavar="N", help="default: the model's own")
        sub.add_argument("--encoder", metavar="NAME", help="of a segmentation model such as unet: a name of `list`")
        if name == "bench":
            sub.add_argument("--batch", type=positive, default=1, metavar="N", help="samples at once (default 1)")
            sub.add_argument("--threads", type=positive, metavar="N", help="threads (default: all)")
            sub.add_argument("--seconds", type=seconds, default=2.0, metavar="S", help="how long (default %(default)s)")
            sub.add_argument("--layers", action="store_true", help="algorithm, time and speed of each layer")
            sub.add_argument("--json", action="store_true", help="print JSON")

    train.add_parsers(command, positive)

    sub = command(
        "doctor", commands.doctor, "Tell what the machine gives: processor, kernels, threads, limits, versions."
    )
    sub.add_argument("--json", action="store_true", help="print JSON")
    return top
