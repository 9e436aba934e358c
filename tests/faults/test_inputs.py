"""A few numbers of each kind of damaged input, and those that once ended as another error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kinds import Kind, Tried, kinds
from tests.faults.peers import peers

KINDS = kinds()

SLOW = {
    "resumed run", "state.pt", "config.toml", "manifest.jsonl", "heic image", "OpenVINO",
    "ONNX in ONNX Runtime", "ONNX in OpenCV",
}  # fmt: skip
"""Kinds that take seconds; the campaign has them."""

FOUND = {
    "tif image": [222, 718, 961, 1742],
    "pnm image": [12, 47, 52],
}  # fmt: skip
"""Numbers that once ended as another error."""


@pytest.mark.parametrize("name", sorted(KINDS.keys() - SLOW))
@pytest.mark.filterwarnings("ignore")
def test_only_fcnsegs_own_errors(name: str, tmp_path: Path) -> None:
    tried = Tried(KINDS[name], tmp_path)
    assert tried.use() == "read"
    for number in [*range(1 if tried.kind.text else 3), *FOUND.get(name, [])]:
        assert tried.attempt(f"{name} {number}") in ("read", "refused")
    assert tried.use() == "read", "the files are mended after each"


def test_a_number_is_the_same_damage_in_every_run(tmp_path: Path) -> None:
    seen: list[list[bytes]] = [[], []]
    for run in seen:
        kind = Kind(
            lambda folder: (folder / "a.json").write_bytes(b'{"a": [1, 2.5, "x"]}') and None,
            lambda folder, run=run: run.extend(path.read_bytes() for path in folder.iterdir()),
            (".json",),
        )
        (tmp_path / str(len(seen[0]))).mkdir()
        tried = Tried(kind, tmp_path / str(len(seen[0])))
        for number in range(30):
            tried.attempt(f"it {number}")
    assert seen[0] == seen[1]
    assert len({*seen[0]}) > 20


@pytest.mark.parametrize("peer", ["Pillow", "OpenCV"])
def test_peers_read_the_sound_files(peer: str, tmp_path: Path) -> None:
    tried = Tried(peers()[f"png image, {peer}"], tmp_path)
    assert tried.use() == "read"
    for path in tmp_path.iterdir():
        path.write_bytes(b"no image")
    assert tried.use() == "refused"
