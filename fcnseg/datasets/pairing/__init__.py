"""Pair images with labels. This module: the listing of a folder's files, and words in names."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

from fcnseg.datasets import Pair, SplitName
from fcnseg.errors import as_text
from fcnseg.io.images import IMAGE_SUFFIXES
from fcnseg.overwriting import inputs_in, skipped_outputs
from fcnseg.progress import Callback, Message, is_hidden, no_callback, warn_unlisted


@dataclass(frozen=True, eq=False)
class Listing:
    """All files under a folder.

    files: paths relative to root, "/" between parts, in a fixed order; str, as a folder of
    100,000 pairs has 200,000 of them.
    """

    root: Path
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def path(self, name: str) -> Path:
        """The path of a listed file."""
        return self.root / name

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The files with an image suffix, and arrays in image folders."""
        found = self.with_suffix(*IMAGE_SUFFIXES)
        arrays = [name for name in self.with_suffix(".npy") if place_of(name).role == "images"]
        return tuple(sorted((*found, *arrays))) if arrays else found

    def with_suffix(self, *suffixes: str) -> tuple[str, ...]:
        """The files with one of these suffixes (lower case)."""
        groups = [group for suffix in suffixes if (group := self._by_suffix.get(suffix))]
        if len(groups) == 1:
            return tuple(self.files[place] for place in groups[0])
        return tuple(self.files[place] for place in sorted(chain.from_iterable(groups)))

    def saying(self, words: Sequence[bytes], *suffixes: str) -> list[str]:
        """The files with one of these suffixes that contain all these words, see `says`."""
        return [name for name in self.with_suffix(*suffixes) if self.says(name, words)]

    def says(self, name: str, words: Sequence[bytes]) -> bool:
        """Whether a file contains all these words, which must be registered by `marks`.

        In a large file only both ends are searched, and the first or the last word is enough.
        """
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = _marks_in(self.path(name))
        bits = [_MARKS[word] for word in words]
        if seen & _LARGE:
            return bool(seen & (bits[0] | bits[-1]))
        return all(seen & bit for bit in bits)

    @cached_property
    def _seen(self) -> dict[str, int]:
        """Cache of the marks in each file, as bits; a dozen finders query it."""
        return {}

    @cached_property
    def _by_suffix(self) -> dict[str, list[int]]:
        """Indices in `files` by suffix: finders query many suffixes that are rare."""
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(self.files):
            groups.setdefault(suffix_of(name), []).append(place)
        return groups

    def mentions(self, *words: str) -> bool:
        """Whether any path contains one of these words (lower case)."""
        return any(word in self._text for word in words)

    @cached_property
    def _text(self) -> str:
        """All paths in one lower-case string, which is much faster to search."""
        return "\n".join(self.files).lower()

    def named(self, *names: str) -> tuple[str, ...]:
        """The files with one of these names (lower case), those nearest to the root first."""
        if not self.mentions(*names):
            return ()  # the common case, checked cheaply
        hits = [name for name in self.files if name.rpartition("/")[2].lower() in names]
        return tuple(sorted(hits, key=lambda name: name.count("/")))

    def pair(
        self,
        image: str,
        labels: str,
        split: SplitName = "",
        *,
        part: str = "",
        layers: Iterable[tuple[str, str]] = (),
    ) -> Pair:
        """A pair of listed files, with the split of the image's folders, else `split`."""
        place = place_of(image)
        name = "/".join((*place.rest, stem_of(image)))
        files = self.path(image), self.path(labels)
        paths = tuple((term, self.path(file)) for term, file in layers)
        return Pair(*files, place.split or split, name, part, paths)


_LARGE = 1

_MARKS: dict[bytes, int] = {}


def marks(*words: bytes) -> tuple[bytes, ...]:
    """Register words that identify a format's files; a file is searched once for all of them."""
    for word in words:
        _MARKS.setdefault(word, 2 << len(_MARKS))
    return words


def _marks_in(path: Path) -> int:
    """The bits of the marks in a file; in a large one, of its ends, with the bit _LARGE."""
    large = 0
    try:
        with path.open("rb") as file:
            text = file.read(1 << 16)
            if len(text) == 1 << 16:
                size = file.seek(0, 2)
                large = _LARGE if size > 1 << 17 else 0
                file.seek(max(1 << 16, size - (1 << 16)))
                text += file.read()
    except OSError:
        return 0
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = text.decode("utf-16", "replace").encode()
    return large | sum(bit for word, bit in _MARKS.items() if word in text)


def list_folder(root: Path, callback: Callback = no_callback) -> Listing:
    """List the files under a folder, except hidden and system files and earlier outputs.

    The callback gets a message about skipped outputs.
    """
    outputs: list[Path] = []
    files = tuple(_walk(root, outputs, callback))
    skipped = skipped_outputs(outputs, root)
    if skipped:
        callback(Message(f"{skipped}."))
    return Listing(root, files)


def suffix_of(name: str) -> str:
    """A path's suffix in lower case, including the dot."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > name.rfind("/") + 1 else ""


def stem_of(name: str) -> str:
    """A path's last part without its suffix."""
    return without_suffix(name).rpartition("/")[2]


def without_suffix(name: str) -> str:
    """A path without its suffix."""
    return name[: len(name) - len(suffix_of(name))]


def start_below(root: Path) -> int:
    """The number of characters before the relative part of a folder's paths; 0 for "."."""
    return len(str(root / "_")) - 1


def is_image(name: str) -> bool:
    """Whether a file has an image suffix."""
    return suffix_of(name) in IMAGE_SUFFIXES


def _walk(root: Path, outputs: list[Path], callback: Callback) -> Iterator[str]:
    """Yield the names of all files; folders of earlier outputs are added to `outputs`."""
    seen = set()
    for folder, folders, names in os.walk(root, True, warn_unlisted(callback), followlinks=True):
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
        folders[:] = sorted(f for f in folders if not is_hidden(f))
        prefix = f"{Path(folder).relative_to(root).as_posix()}/".removeprefix("./")
        yield from (prefix + name for name in sorted(names) if not name.startswith("."))


_SPLIT_WORDS: Mapping[SplitName, str] = {
    "train": """
        train training trn tr trainieren entrenamiento treino treinamento entrainement entraînement
        apprentissage addestramento обучение обучающая обучающие обучающий тренировка
        тренировочная тренировочные навчання تدريب التدريب آموزش 训练 训练集 学習 学習用
        訓練 訓練集 학습 훈련 eğitim treningowe pelatihan trainings
    """,
    "val": """
        val valid validation dev validierung validacion validación validacao validação validazione
        валидация валидационная валидационные проверка проверочная проверочные валідація перевірка
        تحقق التحقق اعتبارسنجی 验证 验证集 検証 検証用 驗證 驗證集 검증 doğrulama walidacja
        validatie validasi validierungs eval evaluation
    """,
    "test": """
        test testing tst ts testen prueba pruebas teste тест тестовая тестовые тестовый тестирование
        اختبار الاختبار آزمون 测试 测试集 テスト テスト用 測試 測試集 테스트 pengujian
    """,
}

_FUSED = ("", "set", "data", "daten", "datensatz", "dataset")

SPLIT_WORDS: Mapping[str, SplitName] = {
    f"{word}{end}": split
    for split, words in _SPLIT_WORDS.items()
    for word in words.split()
    for end in (_FUSED if word.isascii() else ("",))
}
"""Words for splits in many languages, lower case; also as compounds (testset, Testdaten)."""


def one_split(named: Sequence[SplitName]) -> SplitName:
    """The split that these words name: `train_val` is train, `train_test` is ambiguous ("")."""
    splits = set(named) - {""}
    if splits == {"train", "val"}:
        return "train"
    return splits.pop() if len(splits) == 1 else ""


IMAGE_WORDS = frozenset([
    "image", "images", "img", "imgs", "jpegimages", "jpgs", "rgb", "input", "inputs", "photo",
    "photos", "picture", "pictures", "frame", "frames", "leftimg8bit", "sat", "x",
])  # fmt: skip

LABEL_WORDS = frozenset([
    "mask", "masks", "label", "labels", "annot", "annots", "annotation", "annotations", "gt", "gts",
    "groundtruth", "ground_truth", "seg", "segs", "segmentation", "segmentations",
    "segmentationclass", "segmentationclasspng", "target", "targets", "labelids", "labeltrainids",
    "gtfine", "gtcoarse", "labelled", "labeled", "y", "semantics",
])  # fmt: skip

FILLERS = frozenset(["png", "pngs", "jpg", "raw", "all", "semantic", "binary", "class", "ids"])
"""Words without meaning in a folder's name ("masks_png")."""

OBJECT_WORDS = frozenset(
    ["segmentationobject", "segmentationobjectpng", "inst", "instance", "instances", "instanceids"]
)
"""Folders of numbered objects, used as labels only if there are no others."""

OTHER_WORDS = OBJECT_WORDS | {
    "segmentationclassvisualization", "panoptic", "depth", "disparity", "overlay", "overlays",
}  # fmt: skip
"""Folders of files that are neither images nor labels."""


@dataclass(frozen=True)
class Place:
    """The meaning of a file's folders.

    role: "images", "labels", "other", or "" if unknown.
    rest: the other folders, as written.
    """

    split: SplitName
    role: str
    rest: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """A key that is equal for an image and its labels."""
        return self.split, as_text("/".join(self.rest)).lower()


def place_of(name: str) -> Place:
    """The meaning of a listed file's folders."""
    return _place(name.rpartition("/")[0])


@lru_cache(maxsize=4096)
def _place(folder: str) -> Place:
    split: SplitName = ""
    role = ""
    rest = []
    for part in folder.split("/") if folder else []:
        its_split, its_role = read_word(part)
        split = its_split or split
        role = its_role or role
        if not (its_split or its_role):
            rest.append(part)
    return Place(split, role, tuple(rest))


def read_word(folder: str) -> tuple[SplitName, str]:
    """The split and role in a folder's name ("trainannot": train, labels); ("", "") if none."""
    word = as_text(folder).lower().replace(" ", "_").replace("-", "_")
    if word in OTHER_WORDS:
        return "", "other"
    if _role(word):
        return "", _role(word)
    splits: list[SplitName] = []
    role = ""
    for token in (part for run in LETTERS.findall(word) for part in _unfuse(run)):
        if token in SPLIT_WORDS:
            splits.append(SPLIT_WORDS[token])
        elif _role(token):
            role = "labels" if "labels" in (role, _role(token)) else "images"
        elif token not in FILLERS:
            return "", ""
    return one_split(splits), role


def _role(word: str) -> str:
    return "images" if word in IMAGE_WORDS else "labels" if word in LABEL_WORDS else ""


def _unfuse(word: str) -> tuple[str, ...]:
    """Split a compound: "trainannot" -> train, annot."""
    for split in SPLIT_WORDS:
        if word.startswith(split) and _role(word[len(split) :]):
            return split, word[len(split) :]
        if word.endswith(split) and _role(word[: -len(split)]):
            return word[: -len(split)], split
    return (word,)


def split_roles(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """The image files and the label files, by the names of their folders."""
    by_role: dict[str, list[str]] = {"images": [], "labels": [], "other": [], "": []}
    for name in files:
        by_role[place_of(name).role].append(name)
    if by_role["labels"]:
        return by_role["images"] or by_role[""], by_role["labels"]
    return by_role["images"] + by_role[""], []


LETTERS = re.compile(r"[^\W\d_]+")
