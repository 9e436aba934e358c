"""Images paired with their labels. Here: the files of a folder, and what their paths share."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fcnseg.datasets import SplitName
from fcnseg.files import inputs_in, skipped_outputs
from fcnseg.io.images import IMAGE_SUFFIXES
from fcnseg.progress import Callback, Message, no_callback


@dataclass(frozen=True, eq=False)
class Listing:
    """Every file under a folder.

    files: paths relative to root, "/" between parts, in a fixed order. Text, because a
    folder of 100,000 pairs has 200,000 of them.
    """

    root: Path
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def path(self, name: str) -> Path:
        """Where a listed file is."""
        return self.root / name

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The files whose suffix says they are images."""
        return tuple(name for name in self.files if is_image(name))

    def with_suffix(self, *suffixes: str) -> tuple[str, ...]:
        """The files with one of these suffixes (lower case)."""
        return tuple(name for name in self.files if suffix_of(name) in suffixes)

    def named(self, *names: str) -> tuple[str, ...]:
        """The files with one of these names (lower case), those nearest to the root first."""
        hits = [name for name in self.files if name.rpartition("/")[2].lower() in names]
        return tuple(sorted(hits, key=lambda name: name.count("/")))

    def only(self, files: Sequence[str]) -> Listing:
        """The same folder with some of its files."""
        return Listing(self.root, tuple(files))


def list_folder(root: Path, callback: Callback = no_callback) -> Listing:
    """Every file under a folder but hidden ones, what macOS adds to archives and earlier outputs.

    The callback receives a Message about the latter.
    """
    outputs: list[Path] = []
    files = tuple(_walk(root, outputs))
    skipped = skipped_outputs(outputs, root)
    if skipped:
        callback(Message(f"{skipped}."))
    return Listing(root, files)


def suffix_of(name: str) -> str:
    """A path's suffix in lower case, with the dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


def stem_of(name: str) -> str:
    """A path's last part without its suffix."""
    base = name[name.rfind("/") + 1 :]
    dot = base.rfind(".")
    return base[:dot] if dot > 0 else base


def is_image(name: str) -> bool:
    """Whether a file's suffix says it is an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


def _walk(root: Path, outputs: list[Path]) -> Iterator[str]:
    """The names of all files; folders of earlier outputs are added to `outputs`."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)  # noqa: PTH118, RUF100 - a link may lead in a circle
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        theirs = inputs_in(Path(folder), names) if folder != str(root) else None
        if theirs is not None:
            outputs.append(Path(folder))
            folders.clear()
            names = [name for name in theirs if is_image(name)]
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in sorted(names) if not name.startswith("."))


_CHUNK = re.compile(r"[^\W_]+")


_RUN = re.compile(r"\d+|[^\W\d_]+")


_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")

RECURS = 50
"""A word says something of a side when it is in one of so many files, or more."""

NUMBER_RECURS = 6
"""And a number that stands alone, or a word with a number in it (`manual1`, `v2`)."""

GROUP = 40
"""Of files that only their words tell apart, so many are compared with all others."""

MOST = 24
"""Differences that are looked at."""

Words = tuple[str, ...]
"""Sorted, with repetitions."""


@dataclass(frozen=True)
class Difference:
    """What tells two sides apart: words (with repetitions) that only the one or the other has."""

    first: Words
    second: Words

    def swapped(self) -> Difference:
        """The same, seen from the other side."""
        return Difference(self.second, self.first)


@dataclass(frozen=True, slots=True)
class _Name:
    """A file's path taken apart: words that recur, what identifies its image, its split.

    numbers: all numbers in their order, those among the words too.
    """

    words: Words
    identity: tuple[str | int, ...]
    split: SplitName
    numbers: tuple[int, ...]


class Names:
    """The files of a folder, taken apart together: what recurs is only seen in all of them."""

    def __init__(self, files: Sequence[str], *, suffixes: bool = False) -> None:
        """suffixes: whether the files' suffixes are words (a.tif and a.png in one folder)."""
        self.files = tuple(files)
        chunks = {name: _chunks(name) for name in files}
        recurring = _recurring(chunks.values())
        self._names = {
            name: _take_apart(parts, recurring, suffix_of(name) if suffixes else "")
            for name, parts in chunks.items()
        }

    @cached_property
    def _by_identity(self) -> dict[tuple[str | int, ...], list[str]]:
        groups: dict[tuple[str | int, ...], list[str]] = defaultdict(list)
        for name in self.files:
            groups[self._names[name].identity].append(name)
        return groups

    @cached_property
    def _by_all(self) -> dict[tuple[tuple[str | int, ...], Words], list[str]]:
        groups: dict[tuple[tuple[str | int, ...], Words], list[str]] = defaultdict(list)
        for name in self.files:
            groups[self._names[name].identity, self._names[name].words].append(name)
        return groups

    def differences(self) -> list[Difference]:
        """What tells files of one image apart, the most frequent first; of each two, one way."""
        counts: Counter[Difference] = Counter()
        for group in self._by_identity.values():
            for first, second in _couples(group):
                one, other = self._names[first], self._names[second]
                if one.words != other.words and _agree(one.split, other.split):
                    counts[_difference(one.words, other.words)] += 1
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0].first, item[0].second))
        return [difference for difference, count in ordered[:MOST] if count > 1]

    def matches(self, difference: Difference) -> list[tuple[str, str]]:
        """The files of the first side, each with its one partner on the second."""
        taken = Counter(difference.first)
        added = Counter(difference.second)
        found = []
        for name in self.files:
            own = self._names[name]
            words = Counter(own.words)
            if taken - words:
                continue
            wanted = tuple(sorted((words - taken + added).elements()))
            partners = [
                other
                for other in self._by_all.get((own.identity, wanted), ())
                if _agree(own.split, self._names[other].split)
            ]
            if len(partners) > 1:
                partners = self._nearest(own, partners)
            if len(partners) == 1:
                found.append((name, partners[0]))
        used = Counter(partner for _, partner in found)
        return [(name, partner) for name, partner in found if used[partner] == 1]

    def _nearest(self, own: _Name, partners: Sequence[str]) -> list[str]:
        """Of files with the same words those of the same split, then with numbers in the order
        of a file's own (`0/1.jpg` is not `1/0.jpg`)."""
        same = [other for other in partners if self._names[other].split == own.split]
        left = same or partners
        return [
            other
            for other in left
            if _in_order(own.numbers, self._names[other].numbers)
            or _in_order(self._names[other].numbers, own.numbers)
        ]


def _in_order(some: Sequence[int], more: Sequence[int]) -> bool:
    """Whether numbers stand among others in the same order."""
    rest = iter(more)
    return all(number in rest for number in some)


def _chunks(name: str) -> list[str]:
    """Runs of letters and digits in a path without its suffix, numbers without padding."""
    bare = name[: len(name) - len(suffix_of(name))]
    parts = _CHUNK.findall(_CAMEL.sub("_", bare))
    return [str(int(part)) if part.isdecimal() else part.lower() for part in parts]


def _recurring(paths: Iterable[Sequence[str]]) -> frozenset[str]:
    """The words that are in many paths, and the numbers (or mixtures) that are in very many."""
    counts: Counter[str] = Counter()
    total = 0
    for chunks in paths:
        total += 1
        counts.update({*chunks, *(run for chunk in chunks for run in _RUN.findall(chunk))})
    return frozenset(
        word
        for word, count in counts.items()
        if count > 1
        and count * (NUMBER_RECURS if any(map(str.isdecimal, word)) else RECURS) >= total
    )


def _take_apart(chunks: Sequence[str], recurring: frozenset[str], suffix: str) -> _Name:
    words: list[str] = [suffix] if suffix else []
    identity: list[str | int] = []
    splits: list[SplitName] = []
    for chunk in chunks:
        for run in [chunk] if chunk in recurring else _RUN.findall(chunk):
            if run in SPLIT_WORDS:
                splits.append(SPLIT_WORDS[run])
            elif run in recurring:
                words.append(run)
            else:
                identity.append(int(run) if run.isdecimal() else run)
    numbers = (int(run) for chunk in chunks for run in _RUN.findall(chunk) if run.isdecimal())
    return _Name(tuple(sorted(words)), tuple(identity), one_split(splits), tuple(numbers))


def _couples(group: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, first in enumerate(group[:GROUP]):
        for second in group[place + 1 :]:
            yield first, second


def _difference(first: Words, second: Words) -> Difference:
    one, other = Counter(first), Counter(second)
    sides = (tuple(sorted(part.elements())) for part in (one - other, other - one))
    return Difference(*sorted(sides))


def _agree(one: SplitName, other: SplitName) -> bool:
    return not one or not other or one == other


SPLIT_WORDS: Mapping[str, SplitName] = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "tst": "test",
    "trainieren": "train", "validierung": "val", "testen": "test",
    "entrenamiento": "train", "validacion": "val", "validación": "val", "prueba": "test",
    "pruebas": "test", "treino": "train", "treinamento": "train", "validacao": "val",
    "validação": "val", "teste": "test", "entrainement": "train", "entraînement": "train",
    "apprentissage": "train", "addestramento": "train", "validazione": "val",
    "обучение": "train", "обучающая": "train", "валидация": "val", "валидационная": "val",
    "тест": "test", "тестовая": "test", "训练": "train", "训练集": "train", "验证": "val",
    "验证集": "val", "测试": "test", "测试集": "test", "学習": "train", "学習用": "train",
    "検証": "val", "検証用": "val", "テスト": "test", "학습": "train", "훈련": "train",
    "검증": "val", "테스트": "test",
}  # fmt: skip
"""What people call the parts of a dataset, lower case."""


def one_split(said: Sequence[SplitName]) -> SplitName:
    """The split that one name means: `train_val` is for training, `train_test` says nothing."""
    splits = set(said) - {""}
    if splits == {"train", "val"}:
        return "train"
    return splits.pop() if len(splits) == 1 else ""
