"""Pictures of things that CIFAR-10 has, from what a checkout and its development dependencies hold.

A photograph of a cat and the silhouette of a horse come with scikit-image, both without restrictions (CC0: Stefan van
der Walt; Andreas Preuss). The other four are drawn here, as lists of shapes in a square of 256 points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

__all__ = ["Sample", "samples"]

SIZE = 256
# Drawn this much larger and then reduced: Pillow's shapes have hard edges.
FINER = 4


class Sample(NamedTuple):
    """A picture (RGB), the class that it shows, and what kind of picture it is."""

    image: Image.Image
    shows: str
    kind: str


class Shape(NamedTuple):
    """A polygon of corners x, y, x, y ..., or an ellipse or rectangle from x, y to x, y."""

    kind: str
    colour: str
    points: tuple[float, ...]


class Drawing(NamedTuple):
    """Colours from the top of the sky to the horizon and from there to the bottom; and shapes, the first behind."""

    sky: tuple[str, str]
    ground: tuple[str, str]
    horizon: float
    shapes: list[Shape]


def row(kind: str, colour: str, y: float, height: float, width: float, xs: range) -> list[Shape]:
    """Shapes of one size side by side: windows, say."""
    return [Shape(kind, colour, (x, y, x + width, y + height)) for x in xs]


def wheels(y: float, radius: float, hub: float, xs: tuple[int, ...]) -> list[Shape]:
    tyres = [Shape("ellipse", "#19191c", (x - radius, y - radius, x + radius, y + radius)) for x in xs]
    return tyres + [Shape("ellipse", "#b4b7bb", (x - hub, y - hub, x + hub, y + hub)) for x in xs]


DRAWINGS = {
    "airplane": Drawing(
        ("#5a96d7", "#bed7f0"),
        ("#bed7f0", "#bed7f0"),
        0.99,
        [
            Shape("polygon", "#3c5082", (40, 108, 20, 62, 44, 62, 84, 108)),
            Shape("polygon", "#96a0af", (120, 112, 96, 72, 112, 72, 160, 112)),
            Shape("ellipse", "#f0f2f6", (22, 104, 70, 140)),
            Shape("polygon", "#f0f2f6", (44, 104, 190, 104, 218, 111, 238, 124, 218, 136, 190, 140, 44, 140)),
            Shape("polygon", "#c8ced8", (34, 130, 226, 130, 214, 137, 190, 140, 44, 140)),
            *row("ellipse", "#3c506e", 112, 8, 6, range(70, 196, 14)),
            Shape("polygon", "#aab2c0", (130, 130, 70, 196, 96, 196, 172, 130)),
            Shape("ellipse", "#5a6270", (104, 150, 134, 166)),
        ],
    ),
    "automobile": Drawing(
        ("#b9cddc", "#d7dcde"),
        ("#828284", "#5f5f62"),
        0.6,
        [
            Shape("ellipse", "#37373a", (16, 182, 240, 204)),
            Shape("polygon", "#be1e23", (66, 126, 92, 84, 168, 84, 204, 126)),
            Shape("polygon", "#2d3c4b", (80, 124, 100, 92, 128, 92, 128, 124)),
            Shape("polygon", "#2d3c4b", (134, 124, 134, 92, 164, 92, 190, 124)),
            Shape("polygon", "#be1e23", (18, 136, 30, 122, 210, 122, 232, 130, 239, 146, 239, 178, 18, 178)),
            Shape("polygon", "#721215", (18, 160, 239, 160, 239, 172, 232, 178, 24, 178, 18, 172)),
            Shape("ellipse", "#faf0be", (222, 136, 238, 150)),
            Shape("rectangle", "#ff785a", (18, 138, 26, 150)),
            *wheels(178, 26, 12, (70, 188)),
        ],
    ),
    "ship": Drawing(
        ("#96bee1", "#e1ebf5"),
        ("#3c698c", "#193c5f"),
        0.62,
        [
            Shape("rectangle", "#be3c2d", (112, 50, 138, 90)),
            Shape("rectangle", "#28282d", (112, 50, 138, 60)),
            Shape("rectangle", "#e1e1dc", (84, 88, 170, 114)),
            Shape("rectangle", "#f0f0eb", (60, 112, 200, 142)),
            *row("rectangle", "#465f78", 120, 8, 7, range(70, 196, 16)),
            Shape("polygon", "#282d3c", (20, 140, 236, 140, 214, 188, 46, 188)),
            Shape("polygon", "#962d28", (36, 174, 220, 174, 214, 188, 46, 188)),
            Shape("rectangle", "#96b4c8", (0, 188, 256, 191)),
        ],
    ),
    "truck": Drawing(
        ("#a0c3e1", "#dce4e8"),
        ("#787670", "#555452"),
        0.62,
        [
            Shape("ellipse", "#323234", (8, 190, 250, 212)),
            Shape("rectangle", "#ebebe8", (10, 58, 160, 176)),
            Shape("rectangle", "#c8c8c6", (10, 58, 160, 66)),
            *row("rectangle", "#cdcdcb", 66, 104, 2, range(34, 160, 24)),
            Shape("rectangle", "#2d2d32", (8, 170, 244, 186)),
            Shape("polygon", "#2355a5", (166, 176, 166, 88, 212, 88, 232, 128, 246, 134, 246, 176)),
            Shape("polygon", "#bed7e6", (180, 126, 180, 98, 207, 98, 222, 126)),
            Shape("ellipse", "#faf0be", (234, 148, 247, 160)),
            *wheels(188, 22, 9, (44, 96, 206)),
        ],
    ),
}


def gradient(top: str, bottom: str, height: int) -> NDArray[np.uint8]:
    """(height, SIZE, 3): one colour passing into another, downwards."""
    first, last = (np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) for colour in (top, bottom))
    rows = np.linspace(first, last, height).round().astype(np.uint8)
    return np.repeat(rows[:, None], SIZE, axis=1)


def draw(drawing: Drawing) -> Image.Image:
    above = round(drawing.horizon * SIZE)
    background = np.concatenate([gradient(*drawing.sky, above), gradient(*drawing.ground, SIZE - above)])
    image = Image.fromarray(background).resize((SIZE * FINER, SIZE * FINER))
    pen = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        getattr(pen, shape.kind)([FINER * value for value in shape.points], fill=shape.colour)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def horse() -> Image.Image:
    """The silhouette, brown on a meadow, in a square."""
    from skimage import data

    outline = ~np.asarray(data.horse())
    height, width = outline.shape
    top = (width - height) // 2
    square = np.zeros((width, width), bool)
    square[top : top + height] = outline
    meadow = np.concatenate([gradient("#a8c9e8", "#d8e6f0", width // 2), gradient("#8fae62", "#6d8f48", width // 2)])
    pixels = np.array(Image.fromarray(meadow).resize((width, width)))
    pixels[square] = (0x5A, 0x37, 0x1E)
    return Image.fromarray(pixels)


def samples() -> list[Sample]:
    """All six."""
    from skimage import data

    return [
        Sample(Image.fromarray(data.chelsea()), "cat", "photograph"),
        Sample(horse(), "horse", "silhouette"),
        *(Sample(draw(drawing), name, "drawing") for name, drawing in DRAWINGS.items()),
    ]
