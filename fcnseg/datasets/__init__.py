"""Read dataset folders. This module: the description of a folder, its pairs and label encoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from fcnseg.classes import MAX_CLASSES, ClassMap
from fcnseg.errors import PARSE_ERRORS, DatasetError, reason

SplitName = Literal["train", "val", "test", ""]

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Pair:
    """An image file and its label file.

    split: "" if the folder does not define it.
    name: a relative path without suffix, unique in the dataset, "/" between its parts.
    part: the entry in a file with the labels of many images (COCO's image id).
    layers: (class name, file), if each class has a separate file; `labels` is the first.
    page: the image in files with several (TIFF pages, slices of a volume), from 0.
    """

    image: Path
    labels: Path
    split: SplitName
    name: str
    part: str = ""
    layers: tuple[tuple[str, Path], ...] = ()
    page: int | None = None


@dataclass(frozen=True)
class Encoding:
    """How classes are stored in the label files.

    kind: "index": numbers (indices, palette indices, gray levels); "color": RGB.
    values: the stored values of class 0, 1, ...; a class may have several, or none.
        Colors are packed as r << 16 | g << 8 | b.
    ignore: stored values of ignored pixels.
    nearest: map other values (in lossy or resized files) to the nearest declared one; otherwise
        they are ignored (255).
    store: the label format, a name in fcnseg.datasets.formats.
    terms: the words in the label files for the stored values 1, 2, ... (for all formats except
        "pixels", "alpha" and "opaque"); 0 is everything else.
    alone: (value, other): in a file with no values but 0 and `value`, which is otherwise ignored,
        `value` means the same as `other` in other files.
    """

    kind: Literal["index", "color"]
    values: tuple[tuple[int, ...], ...]
    ignore: tuple[int, ...] = ()
    nearest: bool = False
    label_format: str = "pixels"
    class_words: tuple[str, ...] = ()
    alone: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.values) <= MAX_CLASSES:
            raise DatasetError(
                f"The labels have {len(self.values)} different values; "
                f"between 1 and {MAX_CLASSES} classes are possible.",
                hint="are these label files? check that images and labels were not exchanged",
            )
        stored = [value for values in self.values for value in values]
        times = Counter([*stored, *set(self.ignore)])
        twice = [value for value, count in times.items() if count > 1]
        if twice:
            raise DatasetError(f"The stored value {min(twice)} has two meanings.")
        if any(abs(value) >= 2**31 for value in (*stored, *self.ignore, *self.alone)):
            raise DatasetError("Stored values have 32 bits; found one beyond.")
        if self.kind not in ("index", "color") or not isinstance(self.label_format, str):
            raise DatasetError(f"Not a label encoding: {self.kind!r} in {self.label_format!r}.")
        if len(self.alone) not in (0, 2):
            raise DatasetError(f"alone is two stored values; found {list(self.alone)}.")

    @classmethod
    def of(cls, values: Sequence[int], ignore: Sequence[int] = (), **rest: Any) -> Encoding:
        """An index encoding with one stored value per class."""
        return cls("index", tuple((value,) for value in values), tuple(ignore), **rest)

    def class_of(self) -> dict[int, int]:
        """Stored value -> class."""
        return {value: index for index, values in enumerate(self.values) for value in values}

    def shown(self, value: int) -> int | str:
        """A stored value for display: a color as #rrggbb, a term's number as its word."""
        if self.kind == "color":
            return f"#{value:06x}"
        return self.class_words[value - 1] if 1 <= value <= len(self.class_words) else value

    def in_file(self, stored: Iterable[int]) -> Encoding:
        """The encoding for a file with these stored values; resolves `alone`."""
        if not self.alone or {*stored} - {0} != {self.alone[0]}:
            return self
        value, other = self.alone
        values = tuple((*some, value) if other in some else some for some in self.values)
        ignore = tuple(ignored for ignored in self.ignore if ignored != value)
        return replace(self, values=values, ignore=ignore, alone=())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a file's header."""
        return {
            "kind": self.kind,
            "values": [list(values) for values in self.values],
            "ignore": list(self.ignore),
            "snap": self.nearest,
            "store": self.label_format,
            "terms": list(self.class_words),
            "alone": list(self.alone),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Encoding:
        """The inverse of as_dict; DatasetError when the data is not of its form."""
        try:
            return cls(
                kind=data["kind"],
                values=tuple(tuple(int(v) for v in values) for values in data["values"]),
                ignore=tuple(int(value) for value in data.get("ignore", ())),
                nearest=bool(data.get("snap", False)),
                label_format=data.get("store", "pixels"),
                class_words=tuple(str(term) for term in data.get("terms", ())),
                alone=tuple(int(value) for value in data.get("alone", ())),
            )
        except PARSE_ERRORS as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"Not a label encoding: {reason(error)}.") from error


@dataclass(frozen=True)
class LabelMeaning:
    """The meaning of stored values.

    classes: names and colors; numbered names if none are known.
    ignore_index: the stored ignore value (255 for colors), or None.
    why: sentences that explain it. unlabelled: names in a class list that mean "no label" (void,
        unknown), and their stored values, which are ignored; "" names a value that may mean it.
    unused_list: a class list that does not fit the stored values, and its content; "" if none.
    few_objects: whether the numbers of classes without names may be those of each file's objects.
    """

    encoding: Encoding
    classes: ClassMap
    ignore_index: int | None = None
    why: tuple[str, ...] = ()
    unlabelled: tuple[tuple[str, int], ...] = ()
    unused_list: str = ""
    few_objects: bool = False


@dataclass(frozen=True)
class Unusable:
    """Unusable entries of an annotation file or list of pairs, with the reason."""

    path: Path
    why: str
    count: int = 1
    what: Literal["annotation", "image", "line", "list"] = "annotation"


@dataclass(frozen=True)
class Pairing:
    """The pairs found by the names in a dataset folder and by its annotation files.

    layout: the kind of folder. label_format, class_words: see Encoding.
    reading: the meaning of the values, if the layout defines it.
    orphan_images, orphan_labels: files without a partner.
    broken: annotation files that can't be read, and why.
    notes: unusable entries.
    left_out: names of the pairs that a dataset.toml omits.
    sides: the folders or patterns of images and labels that a dataset.toml selects.
    objects: whether the label folder's name says that values number objects.
    """

    layout: str
    pairs: tuple[Pair, ...]
    label_format: str = "pixels"
    class_words: tuple[str, ...] = ()
    reading: LabelMeaning | None = None
    orphan_images: tuple[Path, ...] = ()
    orphan_labels: tuple[Path, ...] = ()
    broken: tuple[tuple[Path, str], ...] = ()
    notes: tuple[Unusable, ...] = ()
    left_out: tuple[str, ...] = ()
    sides: tuple[str, str] = ("", "")
    objects: bool = False
    why: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Description:
    """The description of a dataset folder.

    root: the folder.
    layout: the kind of folder it is, e.g. "camvid", "folders", "voc".
    pairs: every image with labels, sorted by split and name.
    classes: names and colors; `encoding.values` has one entry for each.
    ignore_index: the stored value of ignored pixels (11 for CamVid), or None. In memory it is
        always 255.
    random_split: whether val was split off at random because the folder has none.
    why: sentences that explain how the folder was interpreted.
    unlabelled, unused_list, few_objects: see LabelMeaning.
    """

    root: Path
    layout: str
    pairs: tuple[Pair, ...] = field(repr=False)
    classes: ClassMap
    encoding: Encoding
    ignore_index: int | None
    random_split: bool = False
    why: tuple[str, ...] = ()
    unlabelled: tuple[tuple[str, int], ...] = ()
    unused_list: str = ""
    few_objects: bool = False
    found: Pairing = field(default_factory=lambda: Pairing("", ()), repr=False)

    def inputs(self) -> Iterator[tuple[str, Path]]:
        """Yield every image and label file of the dataset, including those without a partner."""
        for pair in self.pairs:
            yield "the image", pair.image
            yield "the labels", pair.labels
            yield from (("the labels", file) for _, file in pair.layers)
        alone = (*self.found.orphan_images, *self.found.orphan_labels)
        yield from (("a file of the dataset", file) for file in alone)


def split_pairs(description: Description, split: str) -> tuple[Pair, ...]:
    """The pairs of "train", "val", "test" or "all"; DatasetError if there are none."""
    chosen = tuple(p for p in description.pairs if split in ("all", p.split))
    if not chosen:
        sizes = ", ".join(f"{name} {count}" for name, count in split_sizes(description).items())
        raise DatasetError(
            f"{description.root} has no pairs for {split!r}; it has {sizes}.",
            hint=f"--split names another one; or put images and labels in a folder called {split}",
        )
    return chosen


def split_sizes(description: Description) -> dict[str, int]:
    """Number of pairs in each non-empty split: {"train": 367, "val": 101}."""
    return sizes(description.pairs)


def sizes(pairs: Sequence[Pair]) -> dict[str, int]:
    """Number of these pairs in each split."""
    return dict(Counter(pair.split for pair in pairs))


def files_of(pair: Pair) -> tuple[Path, ...]:
    """The label files of a pair."""
    return tuple(path for _, path in pair.layers) or (pair.labels,)


def name_uniquely(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Make names unique by adding the split, the suffix, or a number where necessary."""
    for longer in _LONGER_NAMES:
        if len({pair.name for pair in pairs}) == len(pairs):
            return tuple(pairs)
        pairs = [replace(pair, name=longer(pair)) for pair in pairs]
    times: Counter[str] = Counter()
    named: dict[str, Pair] = {}
    for pair in pairs:
        name = pair.name
        while name in named:
            times[pair.name] += 1
            name = f"{pair.name}-{times[pair.name] + 1}"
        named[name] = replace(pair, name=name)
    return tuple(named.values())


_LONGER_NAMES: tuple[Callable[[Pair], str], ...] = (
    lambda pair: f"{pair.split}/{pair.name}" if pair.split else pair.name,
    lambda pair: pair.name + pair.image.suffix,
    lambda pair: f"{pair.name}-{pair.part}" if pair.part else pair.name,
)
