from pathlib import Path

import pytest

from fcnseg.commands.demo import demo
from fcnseg.config import DemoConfig
from fcnseg.progress import Event, Message


def test_the_demo_makes_everything_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcnseg.data import drawn

    write = drawn.write_dataset
    monkeypatch.setattr(
        drawn, "write_dataset", lambda folder, **options: write(folder, train=16, val=4, **options)
    )
    monkeypatch.setattr("fcnseg.commands.demo.CLIP_FRAMES", 6)
    events: list[Event] = []
    result = demo(DemoConfig(out=tmp_path / "demo", epochs=1, device="cpu"), events.append)
    assert result.pairs == 20
    assert result.frames == 6
    assert 0 < result.miou < 1
    for path in (result.data, result.model, result.video):
        assert path.exists()
    assert len(list(result.heatmaps.rglob("*.png"))) >= 4
    told = " ".join(event.text for event in events if isinstance(event, Message))
    for verb in ("train", "eval", "infer", "viz"):
        assert f"fcnseg {verb} " in told
    assert set(result.as_dict()) >= {"miou", "video", "heatmaps"}
