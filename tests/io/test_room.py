"""A video on a disk that becomes full: what was written can be played, and the error says why."""

import shutil
from collections import namedtuple
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fcnseg.errors import MediaError
from fcnseg.io.sources.video import open_video
from fcnseg.io.video_writer import VideoWriter

pytest.importorskip("av")
resource = pytest.importorskip("resource")  # Windows has none
NOISE = np.random.default_rng(0).integers(0, 255, (8, 96, 128, 3)).astype(np.uint8)
Usage = namedtuple("Usage", "total used free")


def playable(path: Path) -> int:
    with open_video(path) as reader:
        return sum(1 for _ in reader)


def write(path: Path, before: Callable[[int], None] = lambda _: None) -> None:
    with VideoWriter(path, Fraction(25), (96, 128)) as writer:
        for number in range(600):
            before(number)
            writer.write(NOISE[number % 8])


def write_until_it_is_full(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        write(path)
    return str(caught.value)


class Disk:
    """A disk of so many bytes with one folder; others: what other programs have filled of it."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size, self.others = folder, size, 0

    def usage(self, _: Path) -> Usage:
        used = self.others + sum(path.stat().st_size for path in self.folder.iterdir())
        return Usage(self.size, used, max(0, self.size - used))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(tmp_path, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", disk.usage)
    return disk


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv", "out.webm"])
def test_a_full_disk(tmp_path: Path, disk: Disk, name: str) -> None:
    said = write_until_it_is_full(tmp_path / name)
    assert f"Can't write {tmp_path / name}: No space left" in said
    assert "make space" in said
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert playable(tmp_path / name) >= 10
    assert disk.usage(tmp_path).used < disk.size


def test_a_disk_that_others_fill(tmp_path: Path, disk: Disk) -> None:
    """Room for the end of the file was kept."""

    def fill(number: int) -> None:
        if number == 6:
            disk.others = disk.size - disk.usage(tmp_path).used

    with pytest.raises(MediaError, match="No space left"):
        write(tmp_path / "out.mp4", fill)
    assert playable(tmp_path / "out.mp4") >= 6
    assert disk.usage(tmp_path).used <= disk.size


def test_a_complete_video_is_not_replaced_by_a_part(tmp_path: Path, disk: Disk) -> None:
    (tmp_path / "out.mp4").write_bytes(b"complete")
    write_until_it_is_full(tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"complete"
    assert playable(tmp_path / "out.partial.mp4") >= 10
    assert disk.others == 0


def test_a_largest_size_of_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        said = write_until_it_is_full(tmp_path / "out.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in said
    assert playable(tmp_path / "out.mp4") >= 10
