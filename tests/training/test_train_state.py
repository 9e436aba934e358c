from pathlib import Path

import pytest
import torch

from fcnseg.errors import CheckpointError
from fcnseg.training.run_folder.state import TrainState, load_state, save_state

TRACK = TrainState(
    step=7, loss_sum=1.25, loss_steps=3, rows=[{"epoch": 1, "iou a": None, "loss": 0.5}], best=0.5
)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    tensors = {"learner": {"a.weight": torch.randn(3, 2)}, "optimizer": {"state": {0: {"step": 1}}}}
    save_state(tmp_path / "state.pt", TRACK, tensors)
    track, found = load_state(tmp_path / "state.pt")
    assert track == TRACK
    assert torch.equal(found["learner"]["a.weight"], tensors["learner"]["a.weight"])
    assert found["optimizer"] == tensors["optimizer"]


@pytest.mark.parametrize("cut", [0, 10, 500, -1])
def test_a_truncated_state(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "state.pt"
    save_state(path, TRACK, {"learner": {"a": torch.randn(99)}})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(path)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_nothing_in_a_state_is_executed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "track": Hostile()}, "state.pt")
    with pytest.raises(CheckpointError, match="damaged or not a training state"):
        load_state(Path("state.pt"))
    assert not Path("harm").exists()


@pytest.mark.parametrize("content", [{"format": 99}, {"weights": 1}, [1, 2]])
def test_foreign_states(tmp_path: Path, content) -> None:
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="not a training state of this version"):
        load_state(tmp_path / "state.pt")


def test_no_state(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no"):
        load_state(tmp_path / "state.pt")
