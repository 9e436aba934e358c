import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fcnseg import files
from fcnseg.files import atomic_write, folder_beside, free_name, partial, temporary_beside

Umask = Callable[[int], int]

needs_locks = pytest.mark.skipif(os.name != "posix", reason="has no such locks")


@pytest.fixture(autouse=True)
def _looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is a new process, as far as looking for what was left behind goes."""
    monkeypatch.setattr(files, "_cleaned", set())


@pytest.fixture
def umask() -> Iterator[Umask]:
    """Sets the umask for the length of a test."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(path: Path, data: bytes = b"new") -> None:
    with atomic_write(path) as file:
        file.write(data)


def test_a_file_is_there_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    with atomic_write(path, sync=True) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), SystemExit()])
def test_after_an_error_all_is_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with folder_beside(path) as folder, atomic_write(path) as file:
            file.write(b"half")
            (folder / "part").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    "name", ["ä" * 120 + ".png", "a" * 251 + ".png", "no_suffix", ".hidden", "b." + "c" * 250]
)
def test_long_and_odd_names_have_a_temporary_one(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    assert names(tmp_path) == [name]


@pytest.mark.skipif(os.name != "posix", reason="has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_the_umask_gives_the_permissions(tmp_path: Path, umask: Umask, mask: int) -> None:
    umask(mask)
    write(tmp_path / "a")
    with temporary_beside(tmp_path / "b") as temporary:
        temporary.write_bytes(b"new")
        temporary.replace(tmp_path / "b")
    for name in "ab":
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.skipif(os.name != "posix", reason="has no umask")
def test_threads_that_write_do_not_touch_the_umask(tmp_path: Path, umask: Umask) -> None:
    """What other threads create meanwhile has the permissions it should have."""
    umask(0o077)
    before, ended, wrong = sys.getswitchinterval(), threading.Event(), []
    sys.setswitchinterval(1e-5)

    def look() -> None:
        number = 0
        while not ended.is_set():
            path = tmp_path / f"other{number}"
            path.write_bytes(b"")
            if path.stat().st_mode & 0o077:
                wrong.append(path)
            number += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(300):
            write(tmp_path / f"ours{number}")
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(before)
    assert not wrong


def kill_while_writing(path: Path) -> None:
    """A process that is killed in the middle of a file and of a folder."""
    program = (
        "import os, signal, sys; from pathlib import Path; from fcnseg import files\n"
        "path = Path(sys.argv[1])\n"
        "with files.temporary_beside(path) as a, files.folder_beside(path) as b:\n"
        "    a.write_bytes(b'half'); (b / 'part').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)


@needs_locks
def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    kill_while_writing(path)
    assert len(names(tmp_path)) == 2
    write(path)
    assert names(tmp_path) == ["clip.mp4"]


@needs_locks
def test_what_is_still_written_or_not_ours_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    theirs = {
        ".clip.mp4",
        ".git",
        ".clip-aa.mp4",
        ".clip.fcnseg-000000-12345678.mp4",
    }
    for name in theirs:  # the last one is another machine's
        (tmp_path / name).write_bytes(b"theirs")
    with temporary_beside(path) as one, folder_beside(path) as other:
        monkeypatch.setattr(files, "_cleaned", set())
        write(path)
        assert one.exists()
        assert other.exists()
    assert set(names(tmp_path)) == {"clip.mp4", *theirs}


def test_an_incomplete_file_has_a_name_of_its_own() -> None:
    assert partial(Path("a/out.mp4")) == Path("a/out.partial.mp4")


def test_names_that_some_disks_take_for_one_get_numbers() -> None:
    taken: set[str] = set()
    names = ["caf\u00e9", "cafe\u0301", "CAF\u00c9", "cafe"]
    assert [free_name(name, taken) for name in names] == [
        "caf\u00e9", "cafe\u0301_2", "CAF\u00c9_3", "cafe",
    ]  # fmt: skip
