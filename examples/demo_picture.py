"""The picture that `make demo` writes: curves, digits with guesses, pictures with guesses. Drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from train_digits import Learnt

__all__ = ["Guessed", "picture"]

WIDTH, MARGIN = 1000, 36
# Everything is drawn in points of SCALE pixels, and reduced to FINAL pixels: Pillow's lines have hard edges.
SCALE, FINAL = 4, 2
# Where the pictures begin.
CARDS = 520

INK, GREY, PALE, PAPER = "#1d2733", "#6b7785", "#e3e8ee", "#ffffff"
BLUE, AMBER, GREEN, RED = "#2563eb", "#e08a1e", "#15803d", "#c62828"


class Guessed(NamedTuple):
    """A square picture, what the network sees of it (32 x 32), what it shows, and the best guesses with scores."""

    image: Image.Image
    seen: Image.Image
    shows: str
    kind: str
    best: Sequence[tuple[str, float]]

    @property
    def right(self) -> bool:
        return self.best[0][0] == self.shows


class Page:
    """A sheet that is measured in points."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.image = Image.new("RGB", (WIDTH * SCALE, round(height * SCALE)), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, size: float = 12, colour: str = INK, anchor: str = "ls") -> None:
        """Pillow's own font; the anchor is Pillow's: l, m, r for the side, s for the base line, m for the middle."""
        font = ImageFont.load_default(size * SCALE)
        self.pen.text((x * SCALE, y * SCALE), text, colour, font, anchor)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: float = 1) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.pen.line(scaled, colour, round(width * SCALE), joint="curve")

    def box(
        self, x: float, y: float, width: float, height: float, fill: str | None, outline: str | None = None
    ) -> None:
        corners = (x * SCALE, y * SCALE, (x + width) * SCALE, (y + height) * SCALE)
        self.pen.rounded_rectangle(corners, 3 * SCALE, fill, outline, round(1.5 * SCALE))

    def paste(self, image: Image.Image, x: float, y: float, size: float, *, pixels: bool) -> None:
        """A square picture; `pixels` leaves each of its points a hard square."""
        side = round(size * SCALE)
        method = Image.Resampling.NEAREST if pixels else Image.Resampling.LANCZOS
        self.image.paste(image.resize((side, side), method), (round(x * SCALE), round(y * SCALE)))

    def finished(self) -> Image.Image:
        size = (WIDTH * FINAL, round(self.height * FINAL))
        return self.image.resize(size, Image.Resampling.LANCZOS)


def chart(
    page: Page, x: float, y: float, title: str, curves: Sequence[tuple[str, str, Sequence[float]]], step: float
) -> None:
    """Curves over epochs, each with its name at its end; `step` is between two lines of the grid."""
    limit = step * math.ceil(max(max(values) for _, _, values in curves) / step)
    width, height, left, names = 430, 118, 34, 78
    page.text(x, y, title, 12)
    bottom, right = y + 12 + height, x + width - names
    lines = round(limit / step)
    for number in range(lines + 1):
        value, level = step * number, bottom - height * number / lines
        page.line([(x + left, level), (right, level)], PALE, 0.75)
        page.text(x + left - 6, level, f"{value:g}", 9, GREY, "rm")
    epochs = len(curves[0][2])

    def place(epoch: int, value: float) -> tuple[float, float]:
        across = epoch / max(1, epochs - 1)
        return x + left + across * (right - x - left), bottom - height * min(max(value, 0), limit) / limit

    for epoch in sorted({0, *range(4, epochs, 5), epochs - 1}):
        page.text(place(epoch, 0)[0], bottom + 12, str(epoch + 1), 9, GREY, "ms")
    ends = [place(epochs - 1, values[-1])[1] for _, _, values in curves]
    # Names that would lie on each other are moved apart.
    middle = sum(ends) / len(ends)
    if len(ends) == 2 and abs(ends[0] - ends[1]) < 13:
        ends = [middle - 6.5, middle + 6.5] if ends[0] <= ends[1] else [middle + 6.5, middle - 6.5]
    for (name, colour, values), end in zip(curves, ends, strict=True):
        points = [place(epoch, value) for epoch, value in enumerate(values)]
        page.line(points, colour, 2)
        page.text(right + 7, end, name, 10, colour, "lm")


def digits(page: Page, x: float, y: float, learnt: Learnt, columns: int = 11, rows: int = 5) -> None:
    """Held-out digits from all of them, with their guesses; the last row is kept for those that it got wrong."""
    wrong = np.flatnonzero(learnt.guesses != learnt.digits)
    spread = np.linspace(0, len(learnt.digits) - 1, columns * (rows - 1)).astype(int)
    shown = [*spread, *wrong[:columns]]
    note = "" if len(wrong) <= columns else f", {columns} of which are in the last row"
    mistakes = f"{len(wrong)} wrong{note}" if len(wrong) else "none wrong"
    page.text(x, y, f"Held-out digits and guesses ({mistakes})", 12)
    side, across, down = 34, 44.5, 53
    for place, index in enumerate(shown):
        left, top = x + across * (place % columns), y + 12 + down * (place // columns)
        guess, right = learnt.guesses[index], learnt.guesses[index] == learnt.digits[index]
        page.box(left - 1.5, top - 1.5, side + 3, side + 3, PALE if right else RED)
        page.paste(grey(learnt.pictures[index]), left, top, side, pixels=True)
        label = f"{guess}" if right else f"{guess}, is {learnt.digits[index]}"
        page.text(left + side / 2, top + side + 11.5, label, 10 if right else 9, GREEN if right else RED, "ms")


def grey(picture: NDArray[np.float32]) -> Image.Image:
    """Dark ink on white of a picture (8, 8, 1) from -0.5 to 0.5."""
    return Image.fromarray(np.uint8(np.round((0.5 - picture[..., 0]) * 255)))


def card(page: Page, x: float, y: float, guessed: Guessed, side: float) -> None:
    """A picture with what the network sees of it in the corner, and its three best guesses as bars."""
    page.paste(guessed.image, x, y, side, pixels=False)
    small = side * 0.3
    corner = x + side - small - 4, y + side - small - 4
    page.box(corner[0] - 1.5, corner[1] - 1.5, small + 3, small + 3, PAPER)
    page.paste(guessed.seen, *corner, small, pixels=True)
    page.text(x, y + side + 17, guessed.best[0][0], 14, GREEN if guessed.right else RED)
    truth = guessed.kind if guessed.right else f"{guessed.kind}, is {guessed.shows}"
    page.text(x + side, y + side + 17, truth, 9.5, GREY, "rs")
    for place, (name, score) in enumerate(guessed.best[:3]):
        level = y + side + 32 + 14 * place
        start, length = x + 62, side - 62 - 34
        page.text(x, level + 3.5, name, 9.5, GREY)
        page.box(start, level - 3, length, 6, PALE)
        if score * length >= 1:
            page.box(start, level - 3, score * length, 6, BLUE if place == 0 else GREY)
        page.text(x + side, level + 3.5, f"{score:.1%}", 9.5, INK if place == 0 else GREY, "rs")


def picture(
    learnt: Learnt, about_digits: str, samples: Sequence[Guessed], about_samples: str, tests: Sequence[Guessed]
) -> Image.Image:
    """The whole sheet.

    Args:
        learnt: the network of the digits.
        about_digits, about_samples: a line below each heading.
        samples: pictures with three guesses each.
        tests: test pictures of CIFAR-10; none where they are not at hand.
    """
    gap = 16
    side = (WIDTH - 2 * MARGIN - gap * (len(samples) - 1)) / len(samples)
    page = Page(CARDS + side + (224 if tests else 88))
    page.text(MARGIN, 52, "resnet_rs", 26)
    page.text(WIDTH - MARGIN, 52, "residual networks on CPUs: Rust kernels, NumPy in and out", 12, GREY, "rs")
    page.line([(MARGIN, 66), (WIDTH - MARGIN, 66)], INK, 1.5)

    page.text(MARGIN, 96, "Handwritten digits, learnt just now", 17)
    page.text(MARGIN, 114, about_digits, 11, GREY)
    history = learnt.history
    worst = max(*history["loss"], *history["val_loss"])
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2) if worst <= 5 * step), 5)
    curves = [("training", BLUE, history["loss"]), ("held out", AMBER, history["val_loss"])]
    chart(page, MARGIN, 142, "Loss by epoch", curves, step)
    curves = [("training", BLUE, history["accuracy"]), ("held out", AMBER, history["val_accuracy"])]
    chart(page, MARGIN, 304, "Accuracy by epoch", curves, 0.25)
    digits(page, WIDTH - MARGIN - 10 * 44.5 - 36, 142, learnt)

    page.line([(MARGIN, 456), (WIDTH - MARGIN, 456)], PALE)
    page.text(MARGIN, 486, "Pictures, by the ResNet-20 that comes with the package", 17)
    page.text(MARGIN, 504, about_samples, 11, GREY)
    for place, guessed in enumerate(samples):
        card(page, MARGIN + place * (side + gap), CARDS, guessed, side)
    if tests:
        gap = 10
        below = CARDS + side + 96
        page.text(MARGIN, below, "Test pictures of CIFAR-10: the first of each class", 12)
        small = (WIDTH - 2 * MARGIN - gap * (len(tests) - 1)) / len(tests)
        for place, guessed in enumerate(tests):
            left = MARGIN + place * (small + gap)
            page.paste(guessed.seen, left, below + 12, small, pixels=True)
            name, score = guessed.best[0]
            colour = GREEN if guessed.right else RED
            page.text(left, below + 12 + small + 13, name, 10, colour)
            page.text(left + small, below + 12 + small + 13, f"{score:.0%}", 9.5, GREY, "rs")
            if not guessed.right:
                page.text(left, below + 12 + small + 25, f"is {guessed.shows}", 9.5, GREY)
    return page.finished()
