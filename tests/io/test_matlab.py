"""Matlab's files: as SciPy reads them, and damaged ones end in one error, soon."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcnseg.errors import MediaError
from fcnseg.io.content.matlab import read_matlab
from fcnseg.io.labels import read_array
from tests.faults.damage import damaged

LABELS = np.random.default_rng(0).integers(0, 5, (7, 9)).astype(np.uint8)


def saved(arrays: Mapping[str, Any], **how: Any) -> bytes:
    matlab = pytest.importorskip("scipy.io")
    matlab.savemat(file := io.BytesIO(), arrays, **how)
    return file.getvalue()


def read(data: bytes, folder: Path) -> np.ndarray:
    (folder / "a.mat").write_bytes(data)
    return read_array(folder / "a.mat").values


def cells(count: int = 1) -> np.ndarray:
    """As the Berkeley set has them: several people's labels, each a struct."""
    made = np.empty((1, count), object)
    for place, factor in enumerate(range(1, count + 1)):
        made[0, place] = {"Boundaries": 0, "Segmentation": LABELS * float(factor)}
    return made


CONTENTS: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        type: lambda type=type: {"labels": LABELS.astype(type), "image": np.zeros((3, 4))}
        for type in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8", "?")
    },
    "only one": lambda: {"whatever": LABELS, "note": "words", "cut": np.array([[1 + 2j]])},
    "struct": lambda: {"GTcls": {"Boundaries": 0, "Segmentation": LABELS}},
    "cells": lambda: {"groundTruth": cells()},
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", CONTENTS)
def test_labels_are_read(name: str, packed: bool, tmp_path: Path) -> None:
    expected = LABELS > 0 if name == "?" else LABELS
    data = saved(CONTENTS[name](), do_compression=packed)
    assert np.array_equal(read(data, tmp_path), expected)


def test_several_drawings_are_refused(tmp_path: Path) -> None:
    """Berkeley's: five people's regions, numbered by each, are no classes."""
    with pytest.raises(MediaError, match=r"5 cells or structs"):
        read(saved({"groundTruth": cells(5)}), tmp_path)


@pytest.mark.parametrize("type", ["u1", "u2", "i2", "i4", "f4", "f8"])
def test_version_4_is_read(type: str, tmp_path: Path) -> None:
    data = saved({"note": "words", "labels": LABELS.astype(type)}, format="4")
    assert np.array_equal(read(data, tmp_path), LABELS)


def test_scipys_own_files_are_read_alike() -> None:
    """Files of Matlab 4 to 7.4 on several machines, big-endian ones among them."""
    matlab = pytest.importorskip("scipy.io")
    folder = Path(matlab.__file__).parent / "matlab/tests/data"
    alike = 0
    for path in folder.glob("test*.mat"):
        if "hdf5" in path.name:
            continue
        for name, array in matlab.loadmat(path).items():
            if isinstance(array, np.ndarray) and array.dtype.kind in "buif":
                found = read_matlab(path.read_bytes(), lambda _, name=name: name)
                assert np.array_equal(found, array), path.name
                alike += 1
    if not alike:
        pytest.skip("this SciPy came without its tests' files")
    assert alike >= 20


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["u1", "struct", "cells"])
def test_damaged_files_are_read_or_refused(name: str, packed: bool, tmp_path: Path) -> None:
    data = saved(CONTENTS[name](), do_compression=packed)
    refused = 0
    for number in range(80):
        try:
            read(damaged(data, f"{name} {number}") or b"x", tmp_path)
        except MediaError:
            refused += 1
    assert refused > 25


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_anywhere_is_refused(packed: bool, tmp_path: Path) -> None:
    data = saved(CONTENTS["struct"](), do_compression=packed)
    for length in random.Random(0).sample(range(1, len(data) - 8), 40):
        with pytest.raises(MediaError):
            read(data[:length], tmp_path)


def variable(dims: tuple[int, ...], content: bytes) -> bytes:
    """Labels in a version 5 file's variable of bytes, with the sizes that are given."""
    shape = struct.pack(f"<{len(dims)}i", *dims)
    parts = struct.pack("<4I", 6, 8, 9, 0) + struct.pack("<2I", 5, len(shape)) + shape
    parts += b"\0" * (-len(shape) % 8) + struct.pack("<2I", 0x10001, ord("y"))
    parts += struct.pack("<2I", 2, len(content)) + content + b"\0" * (-len(content) % 8)
    return struct.pack("<2I", 14, len(parts)) + parts


HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"

LIES = {
    "huge shape": HEAD + variable((2**31 - 1, 2**31 - 1, 2**31 - 1), b"abcd"),
    "negative": HEAD + variable((-2, -2), b"abcd"),
    "no axes": HEAD + variable((), b"a"),
    "one axis": HEAD + variable((4,), b"abcd"),
    "thousand axes": HEAD + variable((1,) * 1000, b"a"),
    "longer": HEAD + struct.pack("<2I", 14, 2**31) + bytes(100),
    "bomb": HEAD
    + struct.pack(
        "<2I", 15, len(bomb := zlib.compress(struct.pack("<2I", 14, 1000) + bytes(1 << 23)))
    )
    + bomb,
    "7.3": HEAD[:124] + b"\x00\x02IM" + bytes(600),
    "nothing": HEAD,
    "version 4": struct.pack("<5i", 0, 2**30, 2**30, 0, 2) + b"y\0",
    "version 4 back": struct.pack("<5i", 0, 0, 0, 0, -20) + b"y\0",
}


def test_the_sound_one_is_read(tmp_path: Path) -> None:
    assert read(HEAD + variable((2, 2), b"abcd"), tmp_path).tolist() == [[97, 99], [98, 100]]


@pytest.mark.parametrize("lie", LIES)
def test_sizes_that_lie_are_refused(lie: str, tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        read(LIES[lie], tmp_path)


def test_structs_in_structs_have_no_end_in_depth(tmp_path: Path) -> None:
    """Nothing calls itself for what stands inside."""
    inner = variable((2, 2), b"abcd")
    for _ in range(3000):
        parts = struct.pack("<4I", 6, 8, 1, 0) + struct.pack("<4I", 5, 8, 1, 1)
        parts += struct.pack("<2I", 0x10001, ord("y")) + inner
        inner = struct.pack("<2I", 14, len(parts)) + parts
    assert read(HEAD + inner, tmp_path).shape == (2, 2)
