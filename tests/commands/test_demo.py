import json
from pathlib import Path

import pytest

from fcnseg.cli.tables import show_demo
from fcnseg.commands.demo import demo
from fcnseg.config import DemoConfig
from fcnseg.errors import OptionError
from fcnseg.io.images import read_image
from fcnseg.progress import Event, Message


def test_the_demo_makes_everything_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fcnseg.commands import demo as drawn

    write = drawn.write_dataset
    monkeypatch.setattr(
        drawn, "write_dataset", lambda folder, **options: write(folder, train=16, val=4, **options)
    )
    monkeypatch.setattr("fcnseg.commands.demo.CLIP_FRAMES", 6)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fcnseg-demo" / "mine").mkdir(parents=True)
    events: list[Event] = []
    result = demo(DemoConfig(epochs=1, device="cpu"), events.append)
    assert result.pairs == 20
    assert result.frames == 6
    assert 0 < result.miou < 1
    assert result.data == Path("fcnseg-demo2/data")
    height, width = read_image(result.data / "images/val/0000.png").shape[:2]
    assert (width, height) == (320, 240)
    for path in (result.data, result.model, result.video):
        assert path.exists()
    assert len(list(result.heatmaps.rglob("*.png"))) >= 4
    told = " ".join(event.text for event in events if isinstance(event, Message))
    for command in ("train", "eval", "infer", "viz"):
        assert f"fcnseg {command} " in told
    assert set(json.loads(json.dumps(result.as_dict()))) >= {"miou", "video", "heatmaps"}
    capsys.readouterr()
    show_demo(result)
    printed = capsys.readouterr().out
    for text in ("star", "accuracy", f"mIoU {100 * result.miou:.2f} %", "fcnseg train FOLDER"):
        assert text in printed
    with pytest.raises(OptionError, match="is not empty"):
        demo(DemoConfig(out=result.data.parent))
