"""benchmarks/fuzz_images.py, a few numbers of each format: the full run takes minutes."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("resource")
pytest.importorskip("tifffile")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz_images.py"
SPEC = importlib.util.spec_from_file_location("fuzz_images", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
fuzz_images = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz_images)

FOUND = {"tif": [222, 718, 961, 1742], "pnm": [12, 47, 52]}
"""Numbers that once ended as another error."""


@pytest.mark.parametrize("form", sorted(set(fuzz_images.FORMATS) - {"heic"}))
@pytest.mark.filterwarnings("ignore")
def test_only_fcnsegs_own_errors(form):
    if form == "tif":
        pytest.importorskip("imagecodecs", reason="tifffile compresses the originals with it")
    originals = fuzz_images.FORMATS[form]()
    assert all(fuzz_images.read_in_every_way(data) == "read" for data in originals)
    for number in [*range(8), *FOUND.get(form, [])]:
        data = originals[number % len(originals)]
        made = fuzz_images.damaged(data, f"{form} {number}")
        assert made == fuzz_images.damaged(data, f"{form} {number}")
        assert fuzz_images.read_in_every_way(made) in ("read", "refused")
