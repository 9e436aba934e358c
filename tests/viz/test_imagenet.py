import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fcnseg.cli.app import app
from fcnseg.commands.viz import view
from fcnseg.config import VizConfig
from fcnseg.errors import OptionError
from fcnseg.io.images import read_image, write_image
from fcnseg.viz.imagenet import ImageNetHeatmaps

CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return pytest.importorskip("skimage.data").chelsea()  # 300 x 451, face left of the middle


@pytest.fixture(scope="module")
def figures() -> ImageNetHeatmaps:
    return ImageNetHeatmaps.of(None, [], alpha=0.6, device="cpu")


def test_a_cat_is_seen_where_it_is(cat: np.ndarray, figures: ImageNetHeatmaps) -> None:
    whole, shares = figures.look(cat)
    assert whole.sum() == pytest.approx(1, abs=1e-4)
    best = [figures.classifier.names[index] for index in shares]
    assert best[0] in CATS
    heat = sum(share for index, share in shares.items() if 281 <= index <= 285)
    assert heat.shape == cat.shape[:2]
    assert heat[80:220, 120:300].mean() > 0.5 > 2 * heat[:, 420:].mean()


def test_large_images_are_looked_at_smaller(cat: np.ndarray, figures: ImageNetHeatmaps) -> None:
    large = np.repeat(np.repeat(cat, 3, axis=0), 3, axis=1)
    whole, shares = figures.look(large)
    assert next(iter(shares.values())).shape == large.shape[:2]
    assert figures.classifier.names[whole.argmax()] in CATS


def test_viz_classify_writes_pages(cat: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "cat.png", cat)
    command = ["viz", str(tmp_path / "cat.png"), "--classify", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--class", "tabby", "--class", "0", "--json"])
    assert done.exit_code == 0, done.stderr
    names = [Path(path).name for path in json.loads(done.stdout)["outputs"]]
    assert names == ["overview.png", "281-tabby.png", "000-tench.png"]
    assert read_image(tmp_path / "out/cat/overview.png").shape[1] > 900


def test_unknown_classes_name_the_near(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Persian cat"):
        ImageNetHeatmaps.of(None, ["cat"], alpha=0.6, device="cpu")


def test_videos_are_refused(drawn_clip: Path, tmp_path: Path) -> None:
    config = VizConfig(source=str(drawn_clip), classify=True, out=tmp_path, device="cpu")
    with pytest.raises(OptionError, match="looks at images"):
        view(config)
