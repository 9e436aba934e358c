"""Files are looked at once; a changed file is noticed; the cache can be lost."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fcnseg.datasets.describe
import fcnseg.datasets.scan
from fcnseg.concurrency import usable_cores
from fcnseg.datasets.describe import scan
from fcnseg.datasets.encoding.values import MOST_VALUES, ValueCounts, count_values
from fcnseg.datasets.many_files import ScanCache, WorkerPool, stamp
from fcnseg.datasets.scan import CountsOfFiles, ScanResult
from fcnseg.files import cache_folder
from fcnseg.io.fingerprint import summarize_image
from fcnseg.io.labels import RawLabels
from fcnseg.progress import Progress
from tests.datasets.written import draw_set, folders


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FCNSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really read."""
    seen: list[str] = []
    read, look = fcnseg.datasets.describe.read_stored, fcnseg.datasets.scan.summarize_image
    look_at_all = fcnseg.datasets.describe.scan_labels

    def read_stored(pair: Any, store: Any, terms: Any) -> Any:
        seen.append(f"masks/{pair.labels.name}")
        return read(pair, store, terms)

    def summarize(path: Path, **options: Any) -> Any:
        seen.append(f"images/{path.name}")
        return look(path, **options)

    def scan_labels(*about: Any) -> Any:
        *rest, _, tell = about
        return look_at_all(*rest, read_stored, tell)

    monkeypatch.setattr(fcnseg.datasets.describe, "scan_labels", scan_labels)
    monkeypatch.setattr(fcnseg.datasets.scan, "summarize_image", summarize)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folders(tmp_path / "data", draw_set(), place="{role}")
    return tmp_path / "data"


def test_a_second_look_reads_nothing(folder: Path, looks: list[str]) -> None:
    first = scan(folder, images=True)
    assert len(looks) == 18
    looks.clear()
    second = scan(folder, images=True)
    assert looks == []
    assert list(first.labels.counts) == list(second.labels.counts)
    assert first.image_scan is not None
    assert second.image_scan is not None
    np.testing.assert_array_equal(first.image_scan.thumbnails, second.image_scan.thumbnails)
    assert first.image_scan.mean == second.image_scan.mean


def test_a_changed_file_is_noticed(folder: Path, looks: list[str]) -> None:
    scan(folder, images=True)
    changed = sorted((folder / "masks").iterdir())[2]
    labels = np.array(Image.open(changed))
    labels[0, 0] = 3 - labels[0, 0]
    Image.fromarray(labels).save(changed)
    os.utime(changed, ns=(0, 123_456_789))
    looks.clear()
    scan(folder, images=True)
    assert looks == [f"masks/{changed.name}"]


def test_files_that_changed_places_are_noticed(folder: Path, looks: list[str]) -> None:
    """Of one size and time, as archives and `cp -p` leave them."""
    one, other = sorted((folder / "masks").iterdir())[:2]
    for path in (one, other):
        path.write_bytes(path.read_bytes().ljust(9999, b"\0"))
        os.utime(path, ns=(0, 123_456_789))
    before = list(scan(folder, images=True).labels.counts)
    one.rename(folder / "kept")
    other.rename(one)
    (folder / "kept").rename(other)
    looks.clear()
    after = list(scan(folder, images=True).labels.counts)
    assert set(looks) == {f"masks/{one.name}", f"masks/{other.name}"}
    assert after[:2] == before[1::-1]


def test_what_can_not_be_read_is_tried_again(folder: Path, looks: list[str]) -> None:
    broken = sorted((folder / "masks").iterdir())[0]
    broken.write_bytes(b"")
    assert "empty" in scan(folder).labels.problems.popitem()[1]
    looks.clear()
    scan(folder)
    assert looks == [f"masks/{broken.name}"]


@pytest.mark.parametrize("spoil", ["file", "database"])
def test_a_lost_cache_costs_only_time(spoil: str, folder: Path, cache: Path) -> None:
    before = scan(folder)
    for database in (cache / "scans").iterdir():
        database.write_bytes(b"not a database" * 100)
    if spoil == "file":
        for database in (cache / "scans").iterdir():
            database.unlink()
        (cache / "scans").rmdir()
        (cache / "scans").write_text("in the way")
    assert list(scan(folder).labels.counts) == list(before.labels.counts)


def test_progress_is_told(folder: Path) -> None:
    told: list[Any] = []
    scan(folder, told.append, images=True)
    ends = {event.task: (event.done, event.total) for event in told if isinstance(event, Progress)}
    assert ends == {"labels": (9, 9), "images": (9, 9)}


def test_the_cache_folder_can_be_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("FCNSEG_CACHE")
    assert cache_folder().name in ("fcnseg", "cache")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without a name
    assert cache_folder().is_absolute()


def test_records_need_their_stamp(tmp_path: Path) -> None:
    with ScanCache(tmp_path) as kept:
        kept.put({"a": ("1", "one"), "b": ("", "two")})
        assert kept.get({"a": "1", "b": ""}) == {"a": "one"}
        assert kept.get({"a": "2"}) == {}
        many = {str(number): ("s", str(number)) for number in range(1200)}
        kept.put(many)
        assert len(kept.get(dict.fromkeys(many, "s"))) == 1200
    assert stamp([tmp_path / "gone"]) == ""


def records(folder: Path) -> list[tuple[str, str, str]]:
    """What the cache has."""
    with ScanCache(folder) as cache:
        database = sqlite3.connect(cache.path)
        rows = database.execute("SELECT * FROM records ORDER BY key").fetchall()
        database.close()
    return rows


def test_what_is_about_deleted_files_goes(folder: Path) -> None:
    def names() -> list[str]:
        return sorted(Path(os.fsdecode(key.split(b"\0")[0])).name for key, _, _ in records(folder))

    scan(folder, images=True)
    image, labels = (sorted((folder / role).iterdir())[0] for role in ("images", "masks"))
    image.rename(image.with_stem("new"))
    labels.rename(labels.with_stem("new"))
    scan(folder, images=True)
    assert names() == sorted(path.name for path in folder.glob("*/*"))


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> list[WorkerPool]:
    """Processes are started for a single unknown file, by these pools."""
    started: list[WorkerPool] = []
    start_processes = WorkerPool.start_processes

    def noted(pool: WorkerPool) -> None:
        start_processes(pool)
        started.append(pool)

    monkeypatch.setattr(WorkerPool, "start_processes", noted)
    monkeypatch.setattr(fcnseg.datasets.scan, "MANY", 1)
    monkeypatch.setattr(fcnseg.datasets.scan, "_PART", 2)
    monkeypatch.setattr(fcnseg.datasets.scan, "_CHUNK", 4)
    return started


def everything(seen: ScanResult) -> list[Any]:
    assert seen.image_scan is not None
    parts = [getattr(seen.image_scan, each.name) for each in dataclasses.fields(seen.image_scan)]
    plain = [part.tolist() if isinstance(part, np.ndarray) else part for part in parts]
    return [list(seen.labels.counts), list(seen.labels.alphas), seen.labels.problems, plain]


def test_processes_see_what_threads_see(
    folder: Path, cache: Path, request: pytest.FixtureRequest
) -> None:
    sorted((folder / "masks").iterdir())[3].write_bytes(b"")
    sorted((folder / "images").iterdir())[5].write_bytes(b"not a picture")
    threads, kept = everything(scan(folder, images=True)), records(folder)
    shutil.rmtree(cache)
    pools = request.getfixturevalue("pools")
    processes = everything(scan(folder, images=True))
    assert len(pools[0].workers) == usable_cores()
    assert all(worker.returncode is not None for worker in pools[0].workers)
    assert processes == threads
    assert len(kept) == 16
    assert records(folder) == kept


def test_a_few_files_start_no_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        WorkerPool, "start_processes", lambda pool: pytest.fail("a process was started")
    )
    scan(folder, images=True)


def test_counts_keep_what_is_put_in() -> None:
    rng = np.random.default_rng(0)
    counts, kept = CountsOfFiles(), []
    for number in range(20):
        raw = rng.integers(0, 1 + 40 * number, (9, 11)).astype(np.int32)
        one = None if number % 7 == 3 else count_values(RawLabels(raw, None, "I"))
        counts.append(one)
        kept.append(one)
    assert list(counts) == kept
    assert len(counts) == 20
    assert len(list(counts.good())) == 17


@pytest.mark.parametrize("largest", [2, 200, 70_000])
def test_a_count_counts_as_numpy_does(largest: int) -> None:
    rng = np.random.default_rng(largest)
    numbers = np.minimum(rng.integers(0, 12, (21, 17)) * (largest // 11 + 1), largest)
    one = count_values(RawLabels(numbers.astype(np.int32), None, "I"))
    values, counts = np.unique(numbers, return_counts=True)
    assert one.values == tuple(values.tolist())
    assert one.pixels == tuple(counts.tolist())
    frame = np.ones(numbers.shape, bool)
    frame[1:-1, 1:-1] = False
    assert one.border == tuple(int((numbers[frame] == value).sum()) for value in values)
    assert sum(one.border) == frame.sum()


def test_a_lossy_file_is_cut_to_its_most_frequent_values() -> None:
    numbers = np.arange(900, dtype=np.int32).reshape(30, 30)
    one = count_values(RawLabels(numbers, None, "I"))
    assert (len(one.values), one.rest) == (MOST_VALUES, 900 - MOST_VALUES)
    exact = count_values(RawLabels(numbers % 250, None, "L"))
    assert (len(exact.values), exact.rest) == (250, 0)
    lossy = count_values(RawLabels(numbers % 250, None, "L"), lossy=True)
    assert len(lossy.values) == MOST_VALUES


def test_single_rows_and_columns_are_counted_once() -> None:
    for shape in ((1, 5), (5, 1), (1, 1), (2, 2)):
        one = count_values(RawLabels(np.zeros(shape, np.int32), None, "L"))
        assert one == ValueCounts(shape, "index", (0,), (shape[0] * shape[1],), one.border)
        assert one.border[0] >= shape[0] * shape[1]


def test_a_glance_says_what_a_image_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (30, 50, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    turned = Image.fromarray(image)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b.jpg", exif=exif, quality=95)
    plain, lying = summarize_image(tmp_path / "a.png"), summarize_image(tmp_path / "b.jpg")
    assert (plain.size, plain.orientation, plain.bits, plain.alpha) == ((30, 50), 1, 8, False)
    assert (lying.size, lying.orientation) == ((50, 30), 6)
    np.testing.assert_allclose(plain.mean, image.reshape(-1, 3).mean(0) / 255, atol=1e-5)
    np.testing.assert_allclose(plain.spread, image.reshape(-1, 3).std(0) / 255, atol=1e-5)
    assert plain.digest != lying.digest
