"""Synthetic data: scenes of moving shapes with labels, and a dataset folder of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcnseg.classes import ClassMap
from fcnseg.concurrency import map_ordered, usable_cores
from fcnseg.io.images import write_image, write_labels
from fcnseg.progress import Callback, Progress, no_callback

Floats = NDArray[np.float64]

CLASSES = ClassMap.of(
    ["background", "disk", "box", "star"],
    [(40, 40, 40), (230, 80, 60), (70, 150, 240), (250, 200, 60)],
)

SIZE = (128, 160)
"""Default height and width of a synthetic image, in pixels; other sizes are scaled."""


@dataclass(frozen=True)
class Shape:
    """One moving shape. Lengths in pixels, angles in radians, time in seconds."""

    kind: int
    place: tuple[float, float]
    velocity: tuple[float, float]
    radius: float
    angle: float
    spin: float
    period: float
    colors: tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Scene:
    """A background and shapes in front of it; later ones cover earlier ones."""

    size: tuple[int, int]
    things: tuple[Shape, ...]
    ground: tuple[tuple[float, ...], tuple[float, ...]]
    waves: tuple[float, float, float]
    seed: int


def make_scene(seed: int, size: tuple[int, int] = SIZE) -> Scene:
    """A random scene of three to six shapes, determined by the seed."""
    rng = np.random.default_rng(seed)
    unit = min(size) / min(SIZE)
    kinds = [1, 2, 3, *rng.integers(1, 4, rng.integers(0, 4))]
    rng.shuffle(kinds)
    return Scene(
        size=size,
        things=tuple(_make_shape(int(kind), size, rng) for kind in kinds),
        ground=(_color(rng), _color(rng)),
        waves=(unit * rng.uniform(14, 40), unit * rng.uniform(14, 40), rng.uniform(0, math.pi)),
        seed=seed,
    )


def draw(scene: Scene, time: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The scene at a time in seconds: image uint8 (H, W, 3) RGB and labels uint8 (H, W)."""
    height, width = scene.size
    y, x = np.mgrid[:height, :width].astype(np.float64)
    image = _ground(scene, y, x)
    labels = np.zeros(scene.size, np.uint8)
    for thing in scene.things:
        distance, u, v = _seen_from(thing, scene.size, time, y, x)
        cover = np.clip(0.5 - distance, 0.0, 1.0)[..., None]  # anti-aliased over one pixel
        image = image * (1 - cover) + _texture(thing, u, v) * cover
        labels[distance < 0] = thing.kind
    rng = np.random.default_rng((scene.seed, round(time * 1000)))
    image = image + rng.normal(0, 6, image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), labels


def write_dataset(
    folder: Path,
    *,
    train: int = 480,
    val: int = 60,
    seed: int = 0,
    size: tuple[int, int] = SIZE,
    callback: Callback = no_callback,
) -> int:
    """Write a dataset folder: images/ and labels/, each with train/ and val/, and classes.txt.

    Returns the number of pairs.
    """
    names = [
        f"{split}/{at:04}.png" for split, n in (("train", train), ("val", val)) for at in range(n)
    ]
    scenes = (make_scene(seed * 100_003 + index, size) for index in range(len(names)))
    made = map_ordered(lambda scene: draw(scene, time=0.0), scenes, usable_cores())
    for index, (name, (_, (image, labels))) in enumerate(zip(names, made, strict=True)):
        write_image(folder / "images" / name, image)
        write_labels(folder / "labels" / name, labels, palette=CLASSES.palette())
        callback(Progress("generating images", index + 1, len(names), "images"))
    (folder / "classes.txt").write_text("\n".join(CLASSES.names) + "\n", encoding="utf-8")
    return train + val


def _make_shape(kind: int, size: tuple[int, int], rng: np.random.Generator) -> Shape:
    height, width = size
    unit = min(size) / min(SIZE)
    direction, speed = rng.uniform(0, 2 * math.pi), unit * rng.uniform(15, 45)
    return Shape(
        kind=kind,
        place=(rng.uniform(0, height), rng.uniform(0, width)),
        velocity=(speed * math.sin(direction), speed * math.cos(direction)),
        radius=rng.uniform(0.12, 0.24) * min(size),
        angle=rng.uniform(0, 2 * math.pi),
        spin=rng.uniform(-1.5, 1.5),
        period=unit * rng.uniform(7, 10),
        colors=(_color(rng, 10, 110), _color(rng, 150, 245)),
    )


def _color(rng: np.random.Generator, low: float = 30, high: float = 225) -> tuple[float, ...]:
    return tuple(float(c) for c in rng.uniform(low, high, 3))


def _ground(scene: Scene, y: Floats, x: Floats) -> Floats:
    """The background (H, W, 3): two colors mixed by slow waves."""
    first, second, phase = scene.waves
    mix = 0.5 + 0.25 * (np.sin(x / first + phase) + np.cos(y / second + x / 50))
    low, high = (np.array(color) for color in scene.ground)
    ground: Floats = low + (high - low) * mix[..., None]
    return ground


def _seen_from(
    thing: Shape, size: tuple[int, int], time: float, y: Floats, x: Floats
) -> tuple[Floats, Floats, Floats]:
    """Signed distance to a shape's edge (negative inside), and coordinates along its two axes."""
    centre = [
        _bounce(at + speed * time, extent)
        for at, speed, extent in zip(thing.place, thing.velocity, size, strict=True)
    ]
    turn = thing.angle + thing.spin * time
    dy, dx = y - centre[0], x - centre[1]
    u = math.cos(turn) * dx + math.sin(turn) * dy
    v = -math.sin(turn) * dx + math.cos(turn) * dy
    return _DISTANCES[thing.kind](u, v, thing.radius), u, v


def _bounce(at: float, extent: int) -> float:
    """A coordinate reflected at both ends of 0..extent."""
    at = at % (2 * extent)
    return at if at < extent else 2 * extent - at


def _disk(u: Floats, v: Floats, radius: float) -> Floats:
    return np.hypot(u, v) - radius


def _box(u: Floats, v: Floats, radius: float) -> Floats:
    return np.maximum(np.abs(u) - radius, np.abs(v) - 0.75 * radius)


def _star(u: Floats, v: Floats, radius: float) -> Floats:
    wave = np.cos(5 * np.arctan2(v, u))
    distance: Floats = np.hypot(u, v) - radius * (0.85 + 0.35 * wave)
    return distance


_DISTANCES = {1: _disk, 2: _box, 3: _star}


def _texture(thing: Shape, u: Floats, v: Floats) -> Floats:
    """(H, W, 3): disks shaded like spheres, stripes on boxes, a checkerboard on stars."""
    step = 2 * math.pi / thing.period
    if thing.kind == 1:
        wave = 0.5 - np.hypot(u + 0.3 * thing.radius, v + 0.3 * thing.radius) / thing.radius
    elif thing.kind == 2:
        wave = np.sin(u * step)
    else:
        wave = np.sin(u * step) * np.sin(v * step) * 2
    mix = np.clip(0.5 + wave, 0, 1)[..., None]
    low, high = (np.array(color) for color in thing.colors)
    texture: Floats = low + (high - low) * mix
    return texture
