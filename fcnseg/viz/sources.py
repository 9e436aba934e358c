"""The inputs of viz, with ground truth from a dataset or from label files named like the images.

Single label files are read with the encoding that the model was trained with, else as class
indices, 255 = ignore. For other encodings, give the dataset's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fcnseg.classes import IGNORE
from fcnseg.config import VizConfig
from fcnseg.datasets import Encoding
from fcnseg.datasets.describe import describe
from fcnseg.datasets.encoding.values import decode
from fcnseg.datasets.pairing.by_content import without_labels
from fcnseg.datasets.pairing.by_words import bare_stem
from fcnseg.engines.base import Labels
from fcnseg.errors import DatasetError, MediaError, OptionError, counted, resolved, user_path
from fcnseg.inference.segmenter import Segmenter
from fcnseg.io.bands import Bands
from fcnseg.io.images import IMAGE_SUFFIXES
from fcnseg.io.labels import read_raw_labels
from fcnseg.io.sources import open_source, refuse_sources
from fcnseg.io.sources.base import MOVING, Frame, Source
from fcnseg.io.sources.listing import Collected, collect, files_in
from fcnseg.io.sources.listing import Named as NamedPath
from fcnseg.overwriting import Named, refuse_overwriting
from fcnseg.progress import Callback, Message, no_callback
from fcnseg.viz import LabelledFrame

if TYPE_CHECKING:
    from fcnseg.datasets.dataset import SegmentationDataset

FindLabels = Callable[[Frame], Labels]
"""A frame -> its labels uint8 (H, W), 255 = ignore; MediaError or DatasetError if it has none."""

_DATASETS = (".toml", ".csv", ".tsv", ".jsonl", ".yaml", ".yml")


Input = tuple[str, str, Callable[[], Source]]
"""A source: its name in messages, the name of its outputs, and the function that opens it."""


class DatasetSource(Source):
    """The images of one split of a dataset, with their labels."""

    kind = "folder"

    def __init__(self, dataset: SegmentationDataset, limit: int = 0) -> None:
        super().__init__()
        self._dataset = dataset
        self.count = min(limit or len(dataset), len(dataset))

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order; pairs that can't be read are added to `failures`."""
        assert self.count is not None
        for index, pair in enumerate(self._dataset.pairs[: self.count]):
            if self._over:
                return
            self.taken += 1
            try:
                pixels, labels, name = self._dataset[index]
            except (MediaError, DatasetError) as error:
                self.failures.append((pair.name, error.message))
                continue
            stored = None if self._dataset.preprocess.bands is None else pixels
            frame = Frame(self._dataset.to_rgb(pixels), index, 0.0, name, pair.image, None, stored)
            yield LabelledFrame.of(frame, labels)


class SourceWithLabels(Source):
    """The images of another source with their labels; those without are added to `failures`."""

    kind = "folder"

    def __init__(self, source: Source, find: FindLabels) -> None:
        super().__init__()
        self._source, self._find = source, find
        self.count, self.failures = source.count, source.failures

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames that have labels."""
        for frame in self._source:
            try:
                labelled = LabelledFrame.of(frame, self._find(frame))
            except (MediaError, DatasetError) as error:
                self.failures.append((frame.name, error.message))
                continue
            yield labelled

    def stop(self) -> None:
        """End at the next frame."""
        super().stop()
        self._source.stop()

    def close(self) -> None:
        """Close the other source as well."""
        super().close()
        self._source.close()


def with_labels(opened: Callable[[], Source], find: FindLabels, items: Set[str]) -> Source:
    """Open a source with labels; OptionError for a video. items: those that need labels."""
    source = opened()
    if source.kind in MOVING:
        raise OptionError(
            f"{_need(items)} labels; a {source.kind} has none.",
            hint="give images, or omit what needs labels",
        )
    return SourceWithLabels(source, find)


def labelled_inputs(
    config: VizConfig, needed: Set[str], segmenter: Segmenter, callback: Callback
) -> list[Input]:
    """The sources, with labels if there are items that need them.

    OptionError when these are not found, or are not needed.
    """
    bands = segmenter.preprocess.bands
    if not needed:
        config.refuse(("labels", "split"), "without labels, errors or gained in --show-what")
        return inputs_of(config, collected(config, callback), callback, bands)
    if config.labels is None:
        source, inputs = open_dataset(config, needed, segmenter, callback)
        if config.out is not None:
            refuse_overwriting([("--out", config.out)], inputs)
        return [(config.source[0], "", lambda: source)]
    config.refuse(("split",), "with --labels")
    found = collected(config, callback)
    images = [path for _, path in found.images]
    files = images if found.single is None else [user_path(found.single)]
    find = find_labels(config.labels, files, segmenter, callback)
    if config.out is not None:
        refuse_sources([("--out", config.out)], (str(config.labels),))

    return [
        (shown, name, partial(with_labels, opened, find, needed))
        for shown, name, opened in inputs_of(config, found, callback, bands)
    ]


def collected(config: VizConfig, callback: Callback) -> Collected:
    """Collect the sources in SOURCE, without files in --out."""
    return collect(config.source, without_labels, exclude=config.out, callback=callback)


def inputs_of(
    config: VizConfig, found: Collected, callback: Callback, bands: Bands | None
) -> list[Input]:
    """The collected sources; their images are read in `bands`."""

    def opened(spec: str | tuple[NamedPath, ...], name: str) -> Source:
        source = open_source(
            spec,
            name=name,
            limit=config.limit,
            fps=config.fps,
            page=config.page,
            callback=callback,
        )
        if config.page is not None and source.kind in MOVING and len(found.specs) == 1:
            source.close()
            config.refuse(("page",), "here: a video has no pages")
        source.bands = bands
        return source

    return [(str(spec), name, partial(opened, spec, name)) for spec, name in found.specs]


def open_dataset(
    config: VizConfig, needed: Set[str], segmenter: Segmenter, callback: Callback = no_callback
) -> tuple[Source, list[Named]]:
    """Open SOURCE as a dataset with the model's classes; return it and its files.

    OptionError when it is not a dataset. needed: the items that need labels, for the message.
    """
    from fcnseg.inference.evaluation import dataset_for, split_of

    config.refuse(("page",), "on a dataset, whose images are what was labeled")
    data = user_path(config.source[0])
    if len(config.source) > 1 or not (data.is_dir() or data.suffix.lower() in _DATASETS):
        raise _no_labels(needed, " ".join(config.source))
    try:
        description = describe(data, callback)
    except DatasetError as error:
        raise _no_labels(needed, str(data), error.message) from None
    split, _ = split_of(config, description, segmenter)
    dataset = dataset_for(segmenter, description, split, callback)
    callback(Message(f"{counted(len(dataset), 'image')} of {data} ({split})"))
    return DatasetSource(dataset, config.limit), list(description.inputs())


def _need(items: Set[str]) -> str:
    """The start of a message: "--show-what errors,gained needs"."""
    return f"--show-what {','.join(sorted(items))} needs"


def _no_labels(needed: Set[str], source: str, why: str = "") -> OptionError:
    return OptionError(
        f"{_need(needed)} labels; {source} is not a dataset." + (f" {why}" if why else ""),
        hint="give a dataset as SOURCE, or say where the labels are: --labels PATH",
    )


def find_labels(
    labels: Path, images: Sequence[Path], segmenter: Segmenter, callback: Callback = no_callback
) -> FindLabels:
    """Make the function that finds labels in a dataset, a folder of label files, or a file.

    images: the files, or their folders. If `labels` is a folder that contains one of them, it is
    a dataset. OptionError when `labels` does not exist.
    """
    if not labels.exists():
        raise OptionError(f"--labels {labels}: no such file or folder.", hint="check the path")
    inside = any(resolved(image).is_relative_to(resolved(labels)) for image in images)
    if labels.suffix.lower() in _DATASETS or (labels.is_dir() and inside):
        return _of_dataset(labels, segmenter, callback)
    read = _reader(segmenter)
    if labels.is_file():
        if len(images) != 1 or not images[0].is_file():
            raise OptionError(
                f"--labels {labels} is one file, and there are several images.",
                hint="give the folder of the label files, or one image",
            )
        return lambda frame: read(labels)  # noqa: ARG005
    named = _ByName(labels)
    return lambda frame: read(named.partner(frame))


def _of_dataset(labels: Path, segmenter: Segmenter, callback: Callback) -> FindLabels:
    from fcnseg.inference.evaluation import dataset_for

    dataset = dataset_for(segmenter, describe(labels, callback), "all", callback)
    places = {resolved(pair.image): index for index, pair in enumerate(dataset.pairs)}

    def find(frame: Frame) -> Labels:
        index = places.get(resolved(_file_of(frame)))
        if index is None:
            raise DatasetError(f"{labels} has no labels for it.")
        return dataset[index].labels

    return find


def _reader(segmenter: Segmenter) -> Callable[[Path], Labels]:
    """Make the function that reads single label files; DatasetError if no value is a class."""
    stored = segmenter.extra.get("encoding")
    numbers = range(len(segmenter.classes))
    encoding = Encoding.of(numbers, [IGNORE]) if stored is None else Encoding.from_dict(stored)

    def read(path: Path) -> Labels:
        found = decode(read_raw_labels(path), encoding)
        if (found == IGNORE).all():
            raise DatasetError(
                f"{path} has no value that the model knows as a class.",
                hint="give the dataset that the file belongs to, as --labels FOLDER",
            )
        return found

    return read


class _ByName:
    """Label files of a folder, by the image's name."""

    def __init__(self, folder: Path) -> None:
        files = [path for path in files_in(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
        self._folder = folder
        self._by_name: dict[str, list[Path]] = {}
        for path in files:
            relative = path.relative_to(folder).with_suffix("").as_posix().casefold()
            for key in {relative, path.stem.casefold(), bare_stem(path.stem)}:
                self._by_name.setdefault(key, []).append(path)

    def partner(self, frame: Frame) -> Path:
        """The label file of an image; DatasetError for none or several."""
        stem = _file_of(frame).stem
        for key in (frame.name.casefold(), stem.casefold(), bare_stem(stem)):
            found = self._by_name.get(key, [])
            if len(found) == 1:
                return found[0]
        several = f", but {len(found)} for {stem!r}" if found else ""
        raise DatasetError(f"{self._folder} has no label file of its name{several}.")


def _file_of(frame: Frame) -> Path:
    if frame.path is None:
        raise DatasetError("Frames of a video have no labels.")
    return frame.path
