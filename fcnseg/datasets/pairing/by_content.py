"""Determine by their content which files are images and which are their labels.

If there are several sets of labels for the same images, implausible ones are dropped (a camera's
field of view, copies in color); if two remain, the folder is refused with an error that lists both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from fcnseg.datasets import Pairing, name_uniquely
from fcnseg.datasets.pairing import IMAGE_WORDS, OBJECT_WORDS, OTHER_WORDS, Listing, place_of
from fcnseg.datasets.pairing.by_words import pair_by_names
from fcnseg.datasets.pairing.candidates import (
    CHOOSE,
    are_cut_outs,
    choose,
    has_unpaired,
    has_word,
    means,
    mostly_same,
    other_size,
    pair,
    refuse_two_cameras,
    terms_of,
    two_images,
    unless_all,
)
from fcnseg.datasets.pairing.file_stats import (
    Candidate,
    StatsCache,
    sample,
    sample_stats,
    tell_labels,
)
from fcnseg.datasets.pairing.path_words import DERIVED, RUN, Names, are_sharded
from fcnseg.errors import DatasetError, counted
from fcnseg.files import NonLocalPath
from fcnseg.progress import Callback, Message


def find_by_content(listing: Listing) -> Pairing | None:
    """Find images and labels that match one to one, whatever their names, by their pixels.

    DatasetError if the result is ambiguous.
    """
    stats = StatsCache(listing)
    candidates = _without(listing, OTHER_WORDS, stats)  # without segment numbers and depth
    objects = not candidates
    candidates = candidates or _without(listing, OTHER_WORDS - OBJECT_WORDS, stats)
    if not candidates:
        return None
    first = _only_image(listing, candidates, stats)
    rivals = [one for one in candidates if mostly_same(one.images, first.images)]
    chosen = choose(listing, rivals, stats)
    taken = {name for one in rivals for name in one.images | one.labels}
    also = [one for one in candidates if not one.labels.isdisjoint(taken)]  # of other sensors
    taken.update(*(one.images for one in also))
    apart = [one for one in candidates if taken.isdisjoint(one.images | one.labels)]
    spare = {name for one in candidates for name in one.labels}
    found = replace(as_found(listing, [*chosen, *apart], spare, stats), objects=objects)
    return _with_note(found, [one for one in rivals if one not in chosen])


def _with_note(found: Pairing, others: Sequence[Candidate]) -> Pairing:
    """Add a note on sets of labels that are not used."""
    names = list(dict.fromkeys(one.pairs[0][1] for one in others))
    note = f"other labels of the same images are not used ({', '.join(names[:3])} ...)"
    return replace(found, why=(*found.why, note)) if names else found


def _without(listing: Listing, others: Iterable[str], stats: StatsCache) -> list[Candidate]:
    """The candidate pairings of a folder's files, without those named by `others`."""
    files = [
        name
        for name in listing.images
        if place_of(name).role != "other" or not has_word(name.lower().split("/")[:-1], others)
    ]
    return [
        one
        for one in candidates_of(files, stats)
        if not has_word(one.label_words, others)
        or "semantic" in one.label_words  # iSAID: Semantic_masks/P0_instance_color_RGB.png
    ]


def find_sides(listing: Listing, images: str, labels: str) -> Pairing:
    """The pairs of chosen images and labels: folders or patterns, "" for not given.

    DatasetError if nothing matches one to one.
    """
    stats = StatsCache(listing)

    def known(ways: Iterable[Candidate]) -> list[Candidate]:
        kept = [
            replace(one, pairs=pairs)
            for one in ways
            if (pairs := tuple(p for p in one.pairs if means(images, p[0]) and means(labels, p[1])))
        ]
        return sorted(kept, key=lambda one: (-len(one.pairs), one.words))

    shown, named = candidates_of(listing.images, stats), known(_by_names(listing))
    if images:  # images of another camera could outnumber labels that only some images have
        others = {name for one in shown for name in one.images if not means(images, name)}
        shown = candidates_of([name for name in listing.images if name not in others], stats)
    shown = known(shown)
    if not named:
        chosen = f"images = {images!r}, labels = {labels!r}"
        raise DatasetError(
            f"{listing.root}: of {chosen} no two files match.",
            hint=f"a folder (last_msk) or a pattern (*_mask.png), relative to root; {CHOOSE}",
        )
    # Pairs by name alone do not show which side has the labels.
    by_name = not shown or 2 * len(shown[0].pairs) < len(named[0].pairs)
    best, *more = named if by_name else shown
    rivals = [best, *(one for one in more if mostly_same(one.images, best.images))]
    sides = [best] if labels or by_name else choose(listing, rivals, stats)
    found = as_found(listing, sides, {name for one in rivals for name in one.labels}, stats)
    return replace(found, sides=(images, labels))


def _by_names(listing: Listing) -> list[Candidate]:
    """All pairings of the files by name, whatever their content."""
    names = Names(listing.images)
    both = [way for one in names.differences() for way in (one, one.swapped())]
    return [Candidate(tuple(names.matches(way)), way.first, way.second) for way in both]


def candidates_of(files: Sequence[str], stats: StatsCache) -> list[Candidate]:
    """The candidate pairings in which one side looks like labels, with most pairs first."""
    for suffixes in (False, True):
        kept = _of_files(Names(files, suffixes=suffixes), stats)
        if kept:
            return _better_without_shards(files, kept, stats)
    return _of_files(Names(files, shards=True), stats) if are_sharded(files) else []


def _of_files(names: Names, stats: StatsCache) -> list[Candidate]:
    """The pairings of files whose names differ in words and of which one side looks like labels."""
    found = []
    for difference in names.differences():
        pairs = names.matches(difference)
        if len(pairs) < 2:
            continue
        some = sample(pairs)
        side = tell_labels(stats.of(a for a, _ in some), stats.of(b for _, b in some))
        if side >= 0 and are_cut_outs([stats.of(pair[:: 1 if side else -1]) for pair in some]):
            continue
        if side == 1:
            found.append(Candidate(tuple(pairs), difference.first, difference.second))
        elif side == 0:
            swapped = tuple((second, first) for first, second in pairs)
            found.append(Candidate(swapped, difference.second, difference.first))
    return _consistent(found)


def _better_without_shards(
    files: Sequence[str], kept: list[Candidate], stats: StatsCache
) -> list[Candidate]:
    """The candidates that ignore shard folders, if they pair more files, or more by one rule."""
    used = {name for one in kept for name in one.images | one.labels}
    pairs = len(kept[0].pairs)
    if (len(used) == len(files) and 2 * pairs == len(used)) or not are_sharded(files):
        return kept
    others = _of_files(Names(files, shards=True), stats)
    more = {name for one in others for name in one.images | one.labels}
    better = (len(more), max((len(one.pairs) for one in others), default=0)) > (len(used), pairs)
    return others if better else kept


def _consistent(found: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that do not contradict one with more pairs."""
    kept: list[Candidate] = []
    for one in sorted(found, key=lambda one: (-len(one.pairs), one.words)):
        if not any(_contradicts(one, other) for other in kept):
            kept.append(one)
    return kept


def _contradicts(one: Candidate, other: Candidate) -> bool:
    """Whether a candidate is accidental, given another with at least as many pairs."""
    same_images, same_labels = one.images & other.images, one.labels & other.labels
    return bool(
        one.images & other.labels
        or one.labels & other.images
        or (same_images and same_labels)  # the same two sides, partners exchanged
        or (2 * len(one.pairs) < len(other.pairs) and (same_images or same_labels))
    )


def _only_image(listing: Listing, candidates: Sequence[Candidate], stats: StatsCache) -> Candidate:
    """The candidate with most pairs; with the same labels, the one that is preferred by words.

    DatasetError if label files belong to two images each and it is ambiguous.
    """
    first = candidates[0]
    many = [one for one in candidates if 4 * len(one.pairs) > 3 * len(first.pairs)]
    rivals = [
        one
        for one in many
        if one is first
        or (mostly_same(one.labels, first.labels) and not mostly_same(one.images, first.images))
    ]
    rivals = unless_all(rivals, lambda one: other_size(one, stats))
    rivals = unless_all(
        rivals,
        lambda one: has_word(one.image_words, DERIVED | _RENDERED) and "rgb" not in one.image_words,
    )
    least = min(one.words for one in rivals)  # prefer names that differ in fewest words
    rivals = [one for one in rivals if one.words == least]
    rivals = unless_all(rivals, lambda one: not has_word(one.image_words, IMAGE_WORDS))
    if len(rivals) > 1:
        raise two_images(listing, [one.pairs for one in rivals])
    return rivals[0]


_RENDERED = frozenset(["normal", "normals", "albedo", "shading", "diffuse", "flow", "uv"])
"""Words for other outputs of renderers, beside the color image."""


def as_found(
    listing: Listing, chosen: Sequence[Candidate], spare: Iterable[str], stats: StatsCache
) -> Pairing:
    """The pairs of one candidate, or of several (parts of a folder, or one class each).

    spare: label files that were not chosen, and are not orphans.
    """
    refuse_two_cameras(listing, chosen)
    by_image: dict[str, list[tuple[str, str]]] = {}
    for one, term in zip(chosen, terms_of(listing, chosen), strict=True):
        for image, labels in one.pairs:
            by_image.setdefault(image, []).append((term, labels))
    layered = any(len(some) > 1 for some in by_image.values())
    terms = tuple(sorted({term for some in by_image.values() for term, _ in some}))
    used = {*by_image, *(labels for some in by_image.values() for _, labels in some), *spare}
    alone = _images_alone([n for n in listing.images if n not in used], chosen[0], stats)
    first = chosen[0].pairs[0]
    return Pairing(
        "content",
        name_uniquely([pair(listing, image, some, layered) for image, some in by_image.items()]),
        label_format="layers" if layered else "pixels",
        class_words=terms if layered else (),
        orphan_images=tuple(map(listing.path, alone)),
        why=(f"files match one to one and show images and labels: {first[0]} and {first[1]}",),
    )


def _images_alone(names: Sequence[str], chosen: Candidate, stats: StatsCache) -> list[str]:
    """The images among files without a partner: by their folders and the content of a few files of
    each folder. All files in the label folders are included."""
    folders: dict[str, list[str]] = {}
    for name in names:
        if place_of(name).role != "other":
            folders.setdefault(name.rpartition("/")[0], []).append(name)
    images = stats.of(sample([image for image, _ in chosen.pairs])) if folders else []
    own = {name.rpartition("/")[0] for name in chosen.labels}
    return [
        name
        for folder, some in folders.items()
        if folder in own or tell_labels(images, stats.of(sample(some))) != 1
        for name in some
    ]


def settle(listing: Listing, found: Pairing) -> Pairing:
    """The pairs found by known words, unless the files' content shows that others are right.

    DatasetError if two sets of labels (or two images for each label file) remain.
    """
    if found.label_format != "pixels" or found.reading is not None:
        return found
    if not has_unpaired(found, listing):
        return _with_images_alone(listing, found)
    names = {listing.path(name): name for name in listing.images}
    own = Candidate(
        tuple((names[p.image], names[p.labels]) for p in found.pairs if p.labels in names),
        label_words=("labels",),
    )
    if len(own.labels) < len(own.pairs):
        shown = find_by_content(listing)  # excludes colored copies of the labels
        if shown is None:
            raise two_images(listing, _by_turn(own.pairs))
        return shown
    used = own.images | own.labels
    files = [n for n in listing.images if n in used or place_of(n).role != "other"]
    candidates = candidates_of(files, stats := StatsCache(listing))
    first = candidates[0] if candidates else own
    if len(first.pairs) + own.images.isdisjoint(first.images) > 2 * len(own.pairs):
        return find_by_content(listing) or found
    more = next((one for one in candidates if {*own.pairs} < {*one.pairs}), None)
    if more is not None and found.layout == "folders":  # images_night/ beside images/, too
        own, found = more, as_found(listing, [more], (), stats)
    rivals = [one for one in candidates if mostly_same(one.images, own.images)]
    same = [one for one in rivals if mostly_same(one.labels, own.labels)]
    others = [one for one in rivals if one not in same]
    if not others:
        return _with_images_alone(listing, found)
    chosen = choose(listing, [own, *others], stats)
    spare = {listing.path(name) for one in others for name in one.labels}
    if chosen == [own]:
        left = tuple(path for path in found.orphan_images if path not in spare)
        labels = tuple(path for path in found.orphan_labels if path not in spare)
        return _with_note(replace(found, orphan_images=left, orphan_labels=labels), others)
    return as_found(listing, chosen, {n for one in [own, *others] for n in one.labels}, stats)


def _with_images_alone(listing: Listing, found: Pairing) -> Pairing:
    """Add images in folders of unknown role to those without labels."""
    used = {path for pair in found.pairs for path in (pair.image, pair.labels)}
    used.update(found.orphan_images, found.orphan_labels)
    rest = [
        name
        for name in listing.images
        if not place_of(name).role
        and listing.path(name) not in used
        and not has_word(RUN.findall(name.lower()), DERIVED)
    ]
    if not rest or found.layout != "folders":
        return found
    some = Candidate(
        tuple((pair.image.relative_to(listing.root).as_posix(), "") for pair in sample(found.pairs))
    )
    alone = _images_alone(rest, some, StatsCache(listing))
    return replace(found, orphan_images=(*found.orphan_images, *map(listing.path, alone)))


def _by_turn(pairs: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """The pairs whose label files occur twice: the first of each, and the others."""
    first: dict[str, tuple[str, str]] = {}
    again = [pair for pair in pairs if first.setdefault(pair[1], pair) is not pair]
    return [[first[labels] for labels in dict.fromkeys(labels for _, labels in again)], again]


def without_labels(folder: Path, files: list[Path], callback: Callback) -> list[Path]:
    """The files of a folder without labels of its images, by names and pixels."""
    if isinstance(folder, NonLocalPath):
        return files
    names = {path: path.relative_to(folder).as_posix() for path in files}
    listing = Listing(folder, tuple(names.values()))
    found = pair_by_names(listing)
    sides = [[getattr(p, side) for p in found.pairs] for side in ("image", "labels")]
    if tell_labels(*(sample_stats(listing, [names[p] for p in side]) for side in sides)) != 1:
        return files
    labels = {*(pair.labels for pair in found.pairs), *found.orphan_labels}
    labels.update(map(listing.path, (n for n in listing.images if place_of(n).role == "other")))
    count = f"{counted(len(labels), 'label image')} ({min(labels)}{' ...' * (len(labels) > 1)})"
    callback(Message(f"Skipped {count}; to segment labels, give their folder."))
    return [path for path in files if path not in labels]
