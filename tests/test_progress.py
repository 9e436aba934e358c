"""Ctrl-C, SIGTERM and SIGHUP do the same in every command: what is done is finished and named."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from fcnseg.cli.app import app
from fcnseg.cli.console import Screen
from fcnseg.io.sources.video import open_video
from fcnseg.overwriting import mark
from fcnseg.progress import Event, Message, Progress, StopSignal, as_interrupts, defer_interrupts
from tests.conftest import TINY_FLAGS

Ask = Callable[..., str]

needs_posix = pytest.mark.skipif(os.name != "posix", reason="os.kill ends the process elsewhere")

STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if os.name == "posix" else []


@pytest.fixture(autouse=True, scope="module")
def sighup_is_not_ignored() -> Iterator[None]:
    """Under nohup it is, and then fcnseg ignores it, too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL) if STOPPING else None
    yield
    if STOPPING:
        signal.signal(signal.SIGHUP, before)


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) == before


@needs_posix
def test_the_second_ctrl_c_stops_at_once() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)  # nothing more to stop


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with StopSignal() as stop:
            seen.append((stop.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@needs_posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_as_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), as_interrupts():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


@needs_posix
def test_two_at_once_are_one_request() -> None:
    """A terminal that is closed sends SIGHUP twice, and what was done is still being finished."""
    with as_interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)


@needs_posix
def test_a_later_signal_is_another_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcnseg.progress.PAIR_SECONDS", 0.0)
    with as_interrupts():
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)


@needs_posix
@pytest.mark.parametrize("context", [as_interrupts, defer_interrupts, StopSignal])
def test_what_nohup_has_ignored_stays_ignored(context: Callable[[], Any]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with context():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@needs_posix
@pytest.mark.parametrize("context", [as_interrupts, StopSignal])
def test_what_is_handled_without_python_is_left_alone(
    context: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python can't give such a handler back: signal.signal takes no None."""
    asked = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda n: None if n == signal.SIGTERM else asked(n))
    with context():
        assert asked(signal.SIGTERM) == signal.SIG_DFL


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
def test_held_back_ends_the_block_first(number: signal.Signals) -> None:
    ended = []

    def work() -> None:
        with defer_interrupts(), defer_interrupts():
            os.kill(os.getpid(), number)
            ended.append(number)
        ended.append(signal.SIGKILL)  # not reached

    with as_interrupts(), pytest.raises(KeyboardInterrupt):
        work()
    assert ended == [number]


@needs_posix
def test_a_second_ctrl_c_is_not_held_back() -> None:
    def work() -> None:
        with defer_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # an error goes before the request
        work()


@needs_posix
def test_signals_that_nobody_handles_are_not_held_back() -> None:
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with defer_interrupts():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Asked(Screen):
    """Draws nothing, and sends a signal to this process at an event."""

    at: ClassVar[Callable[[Event], bool]]
    number: ClassVar[signal.Signals]
    sent: ClassVar[bool]

    def __call__(self, event: Event) -> None:
        if not Asked.sent and Asked.at(event):
            Asked.sent = True
            os.kill(os.getpid(), Asked.number)


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Run a command, ask it to stop at an event; what it says."""
    monkeypatch.setattr("fcnseg.cli.app.Screen", Asked)

    def run(number: signal.Signals, at: Callable[[Event], bool], *arguments: object) -> str:
        Asked.at, Asked.number, Asked.sent = staticmethod(at), number, False
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        shown = result.stdout + result.stderr
        assert Asked.sent, shown
        assert result.exit_code == 130, shown
        assert "Traceback" not in shown
        return shown

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    yield run
    signal.signal(signal.SIGINT, before)


def frames(task: str, done: int) -> Callable[[Event], bool]:
    """Whether an event says that so many of a task are done."""
    return lambda event: (
        isinstance(event, Progress) and event.task.startswith(task) and event.done >= done
    )


def hidden(folder: Path) -> list[Path]:
    return list(folder.rglob(".*"))


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("target", ["new.mp4", "old.mp4", "folder"])
def test_infer(
    ask: Ask, random_model: Path, drawn_clip: Path, tmp_path: Path, number: int, target: str
) -> None:
    out = tmp_path / target
    if target == "old.mp4":
        out.write_bytes(b"complete")
    arguments = ["infer", drawn_clip, "-m", random_model, "--engine", "torch", "-o", out]
    said = ask(number, frames("infer", 3), *arguments)
    written = {"new.mp4": out, "old.mp4": tmp_path / "old.partial.mp4"}.get(target)
    written = written or out / "clip_overlay.mp4"
    assert "Stopped after" in said
    assert written.name in said.replace("\n", "")
    with open_video(written) as reader:
        assert 3 <= len(list(reader)) <= 12
    assert not hidden(tmp_path)
    assert target != "old.mp4" or out.read_bytes() == b"complete"


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
def test_infer_of_a_watched_folder(
    ask: Ask, random_model: Path, drawn_folder: Path, tmp_path: Path, number: int
) -> None:
    folder, out = drawn_folder / "images" / "val", tmp_path / "out"
    arguments = ["--watch", "-m", random_model, "--engine", "torch", "-o", out, "--save", "labels"]
    said = ask(number, frames("infer", 2), "infer", folder, *arguments)
    assert "Stopped after" in said
    assert len(list((out / "labels").glob("*.png"))) >= 2
    assert not hidden(tmp_path)


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("existing", [False, True])
def test_viz(
    ask: Ask, random_model: Path, drawn_clip: Path, tmp_path: Path, number: int, existing: bool
) -> None:
    video = tmp_path / "out" / "overview.mp4"
    if existing:  # of an earlier run
        mark(video.parent)
        video.write_bytes(b"complete")
    arguments = ["viz", drawn_clip, "-m", random_model, "-o", tmp_path / "out"]
    assert "Stopped after" in ask(number, frames("viz", 3), *arguments)
    if existing:
        assert video.read_bytes() == b"complete"
        video = video.with_name("overview.partial.mp4")
    with open_video(video) as reader:
        assert len(list(reader)) == 3
    assert not hidden(tmp_path)


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
def test_train(ask: Ask, drawn_folder: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    train = ["train", drawn_folder, "-o", run, "--epochs", 3, *TINY_FLAGS]
    said = ask(number, frames("epoch 2", 1), *train)
    assert "everything is saved" in said.replace("\n", " ")
    assert {"state.pt", "best.safetensors", "last.safetensors"} <= {p.name for p in run.iterdir()}
    assert not hidden(run)


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
def test_eval_bench_and_check(
    ask: Ask, random_model: Path, drawn_folder: Path, tmp_path: Path, number: int
) -> None:
    model = ["-m", random_model, "--engine", "torch"]
    ask(number, frames("evaluation", 1), "eval", drawn_folder, *model)
    ask(number, frames("bench", 3), "bench", random_model, "--engine", "torch", "--frames", 3)
    out, sheet = tmp_path / "clean", tmp_path / "contact.png"
    ask(number, frames("copy", 2), "check", drawn_folder, "--fix", out, "--contact", sheet)
    assert not list(tmp_path.iterdir())


@needs_posix
@pytest.mark.parametrize("number", STOPPING)
def test_export(ask: Ask, random_model: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "model.torchscript"
    arguments = ["export", random_model, "--format", "torchscript", "-o", out]
    ask(number, lambda event: isinstance(event, Message) and "Writing" in event.text, *arguments)
    assert not list(tmp_path.iterdir())


@needs_posix
@pytest.mark.parametrize("number", STOPPING[1:])  # background jobs ignore Ctrl-C
def test_a_process_of_its_own(
    random_model: Path, drawn_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """From outside: the process ends by itself, with 130."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fcnseg", "infer", str(drawn_folder / "images" / "val")]
    command += ["--watch", "-m", str(random_model), "-o", str(out), "--engine", "torch"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        limit = time.monotonic() + 120
        while not list(out.glob("labels/*.png")) and time.monotonic() < limit:
            time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert b"Stopped after" in said
