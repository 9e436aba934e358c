from __future__ import annotations

import hashlib
import http.client
from pathlib import Path

import pytest
import torch

from fcnseg.errors import CheckpointError
from fcnseg.models.weights import download, read_state
from fcnseg.progress import Event, Progress


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hub" / "checkpoints"


def published(folder: Path, *, digest: str | None = None, size: int = 3_000_000) -> str:
    """The address of a file named after the digest of its content."""
    data = bytes(size)
    digest = digest or hashlib.sha256(data).hexdigest()[:8]
    path = folder / f"net-{digest}.pth"
    path.write_bytes(data)
    return path.as_uri()


def test_downloads_once_and_tells_of_it(tmp_path: Path, cache: Path) -> None:
    events: list[Event] = []
    url = published(tmp_path)
    path = download(url, events.append)
    assert path.parent == cache
    assert path.stat().st_size == 3_000_000
    assert [event.done for event in events if isinstance(event, Progress)] == [
        1 << 20, 2 << 20, 3_000_000,
    ]  # fmt: skip
    assert {event.total for event in events if isinstance(event, Progress)} == {3_000_000}
    Path(tmp_path / url.rsplit("/", 1)[-1]).unlink()
    assert download(url, events.append) == path
    assert len(events) == 3


@pytest.mark.parametrize("url", ["checksum", "missing", "cut"])
def test_a_bad_download_leaves_nothing(
    tmp_path: Path, cache: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = published(tmp_path, digest="0badc0de")
    if url == "missing":
        address = address.replace("net", "no")
    elif url == "cut":  # in the middle of a chunk, which http.client does not call an OSError

        def read(*_: object) -> bytes:
            raise http.client.IncompleteRead(b"")

        monkeypatch.setattr("urllib.response.addinfourl.read", read, raising=False)
    says = "SHA-256 begins with" if url == "checksum" else "could not be downloaded"
    with pytest.raises(CheckpointError, match=says) as caught:
        download(address)
    assert str(cache) in caught.value.hint
    assert list(cache.iterdir()) == []


def test_reads_tables_of_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for content in ({"a": torch.ones(2)}, {"state_dict": {"a": torch.ones(2)}}):
        torch.save(content, path)
        assert torch.equal(read_state(path)["a"], torch.ones(2))


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("/tmp/fcnseg-was-here"),)


def test_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"a": Hostile()}, path)
    with pytest.raises(CheckpointError, match="is not a weights file"):
        read_state(path)
    assert not Path("/tmp/fcnseg-was-here").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pth", b"", "not a weights file"),
        ("a.pth", b"hello", "not a weights file"),
        ("a.safetensors", b"hello", "not a weights file"),
        ("a.pth", None, "No weights file"),
    ],
)
def test_what_is_no_weights_file(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        read_state(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.ones(2)])
def test_something_else_in_a_torch_file(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds no weights"):
        read_state(tmp_path / "x.pth")
