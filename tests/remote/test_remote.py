"""Remote storage: what comes of memory:// and S3 is what comes of local files."""

import itertools
import json
import pickle
import secrets
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from fcnseg.cli.app import app
from fcnseg.commands.check import check
from fcnseg.commands.infer import infer
from fcnseg.config import InferConfig
from fcnseg.errors import Interrupted, MediaError, MissingExtra, OptionError
from fcnseg.files import as_path
from fcnseg.io.images import write_image
from fcnseg.io.sources import open_source
from fcnseg.io.video_writer import VideoWriter
from fcnseg.progress import Event, Message
from fcnseg.remote import RemotePath
from fcnseg.remote import listing as remote_listing
from fcnseg.remote.listing import copied
from tests.inference.test_pipeline import SIZE, FakeSegmenter, files, picture

NAMES = ["a.png", "a.jpg", "frame_10.png", "frame_9.png", "sub/b.png", "sub/deep/ü c.bmp"]


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    for number, name in enumerate(NAMES):
        write_image(folder / "in" / name, picture(number))
    (folder / "in/notes.md").write_text("no image")
    (folder / "in/bad.png").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of a bucket in a server of this machine."""
    pytest.importorskip("s3fs", reason="needs s3fs")
    server = pytest.importorskip("moto.server", reason="needs moto[server]")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
    running.stop()


@pytest.fixture(params=["memory", "s3"])
def root(request: pytest.FixtureRequest, local: Path) -> Path:
    """A folder in remote storage with the files of the local one, below `in`."""
    base = request.getfixturevalue("s3") if request.param == "s3" else "memory://"
    folder = as_path(f"{base.rstrip('/')}/{secrets.token_hex(4)}")
    for name in files(local / "in"):
        copy = folder / "in" / name
        assert isinstance(copy, RemotePath)
        with (local / "in" / name).open("rb") as file:
            copy.upload(file)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, Fraction(25, 2), SIZE) as writer:
        for number in range(6):
            writer.write(picture(number))
    return path


def run(source, out, *, segmenter=None, callback=lambda event: None, **options):
    values = {"source": str(source), "out": out, **options}
    return infer(InferConfig.make(values), callback, segmenter=segmenter or FakeSegmenter())


def remote_files(folder: Path) -> dict[str, bytes]:
    assert isinstance(folder, RemotePath)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.files_below()}


def local_files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def lines(data: bytes) -> list[dict[str, str]]:
    """A manifest without what is this machine's: times, and names of files."""
    found = [json.loads(line) for line in data.splitlines()]
    return sorted(
        ({"name": Path(line["name"]).name, "job": line["job"]} for line in found if "job" in line),
        key=lambda line: line["name"],
    )


@pytest.mark.parametrize("kinds", [(), ("labels", "coco", "yolo")])
def test_the_bytes_are_those_of_local_files(tmp_path, local, root, kinds):
    done = run(root / "in", root / "out", save=kinds)
    here = run(local / "in", tmp_path / "out", save=kinds)
    assert done.outputs[0] == root / "out" / (kinds or ("overlay",))[0]
    assert (done.frames_in, done.frames_out) == (here.frames_in, here.frames_out) == (7, 6)
    assert [Path(name).name for name, _ in done.failed] == ["bad.png"]
    found, wanted = remote_files(root / "out"), local_files(tmp_path / "out")
    names = [line["name"] for line in lines(found.pop("manifest.jsonl"))]
    assert names == [
        line["name"] for line in lines(wanted.pop("manifest.jsonl")) if line["name"] != "bad.png"
    ]
    assert found == wanted


def test_remote_to_local_and_local_to_remote(tmp_path, local, root):
    run(root / "in", tmp_path / "out", save=("labels",))
    run(local / "in", root / "out", save=("labels",))
    found, wanted = remote_files(root / "out"), local_files(tmp_path / "out")
    del found["manifest.jsonl"], wanted["manifest.jsonl"]
    assert found == wanted
    assert len(found) == 6


@pytest.mark.parametrize("kinds", [("labels",), ("overlay", "labels", "coco")])
def test_an_interrupted_job_resumes(tmp_path, local, root, kinds, monkeypatch):
    """Whether it was stopped or killed: then the lines that waited are lost, and done again."""
    run(local / "in", tmp_path / "out", save=kinds)
    monkeypatch.setattr("fcnseg.inference.outputs.manifest._FLUSH_SECONDS", 0.0)
    stopped = FakeSegmenter(fail_at=2, error=KeyboardInterrupt())
    with pytest.raises(Interrupted, match="Stopped after"):
        run(root / "in", root / "out", segmenter=stopped, save=kinds, skip_done="coco" in kinds)
    segmenter = FakeSegmenter()
    done = run(root / "in", root / "out", segmenter=segmenter, save=kinds, skip_done=True)
    assert (done.skipped, sum(segmenter.batches)) == (2, 4)
    found, wanted = remote_files(root / "out"), local_files(tmp_path / "out")
    del found["manifest.jsonl"], wanted["manifest.jsonl"]
    assert found == wanted
    lost = root / "out/labels/a_png.png"
    lost.unlink()
    with (root / "in/frame_9.png").open("wb") as changed:
        changed.write((local / "in/a.png").read_bytes())
    again = FakeSegmenter()
    assert run(root / "in", root / "out", segmenter=again, save=("labels",), skip_done=True)
    assert sum(again.batches) == (2 if kinds == ("labels",) else 6)
    assert lost.exists()


def test_one_image_a_video_and_files_of_their_own(tmp_path, local, root, clip):
    """A file for --out, --shares, and videos, which are copied for as long as they are read."""
    run(root / "in/sub/b.png", root / "one/labels.png", save=("labels",))
    run(local / "in/sub/b.png", tmp_path / "labels.png", save=("labels",))
    assert (root / "one/labels.png").read_bytes() == (tmp_path / "labels.png").read_bytes()
    with (root / "clip.mp4").open("wb") as file:
        file.write(clip.read_bytes())
    messages = []
    for source, out in ((clip, tmp_path), (root / "clip.mp4", root)):
        run(source, out / "v.mp4", shares=out / "s.jsonl", callback=messages.append)
        run(source, out / "v", save=("labels",))
    assert (root / "v.mp4").read_bytes() == (tmp_path / "v.mp4").read_bytes()
    assert (root / "s.jsonl").read_bytes() == (tmp_path / "s.jsonl").read_bytes()
    assert set(remote_files(root / "v/labels")) == set(local_files(tmp_path / "v/labels"))
    assert run(root / "clip.mp4", root / "v", save=("labels",), skip_done=True).frames_out == 0


@pytest.fixture
def stream_from_4(monkeypatch):
    monkeypatch.setattr(remote_listing, "CHUNK", 4)


def test_a_large_folder_is_a_stream_with_the_names_of_a_listed_one(
    tmp_path, local, root, stream_from_4
):
    messages = []
    done = run(root / "in", root / "out", save=("labels",), callback=messages.append)
    run(local / "in", tmp_path / "out", save=("labels",))
    assert (done.frames_in, done.frames_out) == (7, 6)
    found, wanted = remote_files(root / "out"), local_files(tmp_path / "out")
    del found["manifest.jsonl"], wanted["manifest.jsonl"]
    assert found == wanted
    assert any("notes.md: not an image" in getattr(event, "text", "") for event in messages)
    segmenter = FakeSegmenter()
    again = run(root / "in", root / "out", save=("labels",), skip_done=True, segmenter=segmenter)
    assert (again.skipped, segmenter.batches) == (6, [])
    several = InferConfig.make({"source": [str(root / "in"), str(local)], "out": root})
    with pytest.raises(OptionError, match="can't be one of several"):
        infer(several, segmenter=FakeSegmenter())


@pytest.mark.parametrize("options", [{"every": 2}, {"limit": 3}, {"every": 2, "limit": 2}])
def test_choices_hold_for_a_stream(root, options, stream_from_4):
    (root / "in/bad.png").unlink()
    (root / "in/notes.md").unlink()
    (root / "in/bare").write_bytes((root / "in/a.png").read_bytes())
    shards = []
    for rank in range(2):
        with open_source(str(root / "in"), rank=rank, size=2, **options) as source:
            shards.append([(frame.index, frame.name) for frame in source])
    chosen = [item for pair in itertools.zip_longest(*shards) for item in pair if item]
    with open_source(str(root / "in")) as source:
        every = [(frame.index, frame.name) for frame in source]
    assert "bare" in [name for _, name in every]
    limit = options.get("limit")
    assert chosen == every[:: options.get("every", 1)][:limit]


def test_earlier_outputs_below_the_source_are_no_inputs(root, monkeypatch, stream_from_4):
    """Whether the mark is listed in the same chunk or in another."""
    (root / "in/bad.png").unlink()
    messages = []
    run(root / "in", root / "in/zz", save=("labels",))
    assert run(root / "in", root / "o1", save=("labels",), callback=messages.append).frames_in == 6
    assert any("earlier outputs" in getattr(event, "text", "") for event in messages)
    monkeypatch.setattr(remote_listing, "CHUNK", 1000)
    assert run(root / "in", root / "o2", save=("labels",)).frames_in == 6
    assert run(root / "in", root / "in/zz", save=("labels",)).frames_in == 6


def test_a_key_never_leads_out_of_the_folder_of_outputs(tmp_path):
    system = fsspec.filesystem("memory")
    folder = as_path(f"memory://{secrets.token_hex(4)}")
    write_image(tmp_path / "a.png", picture(0))
    system.pipe_file(f"{folder.key}/../../up.png", (tmp_path / "a.png").read_bytes())
    system.store[f"{folder.key}/x/../../../up.png"] = system.store.pop(
        next(key for key in system.store if key.endswith("up.png"))
    )
    files_of_it = [path for path in folder.files_below() if ".." in path.parts]
    assert files_of_it == []


def test_a_data_set_is_copied_once(drawn_folder, tmp_path, monkeypatch):
    """And again where it changed; what is gone there goes here."""
    monkeypatch.setenv("FCNSEG_CACHE", str(tmp_path))
    root = as_path(f"memory://{secrets.token_hex(4)}/data")
    for name in files(drawn_folder):
        with (root / name).open("wb") as copy:
            copy.write((drawn_folder / name).read_bytes())
    said: list[str] = []

    def note(event: Event) -> None:
        said.extend([event.text] if isinstance(event, Message) else [])

    here = check(str(root), note)
    assert here.splits == check(drawn_folder).splits
    assert "61 files, 61 copied now" in said[0]
    [place] = (tmp_path / "remote").glob("*/data")
    assert str(place) in said[0]
    assert local_files(place) == local_files(drawn_folder)
    gone, changed, *_ = sorted(path for path in root.files_below() if path.suffix == ".png")
    gone.unlink()
    with changed.open("wb") as copy:
        copy.write(gone.name.encode())
    assert copied(root, note) == place
    assert "60 files, 1 copied now" in said[-1]
    assert local_files(place) == remote_files(root)


class Broken(MemoryFileSystem):
    """What has no file to give, for a reason."""

    protocol = "broken"
    cachable = False
    error: Exception = RuntimeError()

    def info(self, path, **options):
        raise self.error


class NoCredentialsError(Exception):
    """As botocore calls it."""


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (NoCredentialsError("Unable to locate"), OptionError, "needs credentials"),
        (PermissionError("Access Denied"), MediaError, "denied access: Access Denied"),
        (TimeoutError("no answer\nin 5 s"), MediaError, "could not be reached: no answer in 5 s"),
        (ImportError("Install brokenfs"), OptionError, "not installed: Install brokenfs"),
        (FileNotFoundError(), MediaError, "There is no file or folder broken://b/x"),
    ],
)
def test_what_storage_says_is_one_clear_error(tmp_path, local, error, kind, says, monkeypatch):
    fsspec.register_implementation("broken", Broken, clobber=True)
    monkeypatch.setattr(Broken, "error", error)
    with pytest.raises(kind, match=says) as caught:
        run("broken://b/x", tmp_path / "out")
    assert caught.value.hint
    if not isinstance(error, FileNotFoundError):
        with pytest.raises(kind, match=says):
            run(local / "in", "broken://b/out")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install the package")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(MissingExtra, match="needs the extra 'remote'"):
        run("s3://b/x", tmp_path / "out")
    with pytest.raises(OptionError, match=r"gs://b/x needs a package"):
        run("gs://b/x", tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["export", "s3://b/m.safetensors"], "MODEL s3://b/m.safetensors is remote storage"),
        (["infer", "a.png", "-m", "s3://b/m"], "--model s3://b/m is remote storage"),
        (["infer", "a.png", "--class", "s3://b/c"], "--class s3://b/c is remote storage"),
        (["train", "data", "--out", "s3://b/run"], "--out s3://b/run is remote storage"),
        (["infer", "memory://none", "-m", "MODEL", "-o", "o"], "no file or folder memory://none"),
        (["infer", "memory://none/*.png", "-m", "MODEL", "-o", "o"], "patterns are for files of"),
        (["infer", "memory://none", "-m", "MODEL", "-o", "o", "--watch"], "--watch needs a folder"),
        (["check", "memory://none"], "There is no folder memory://none"),
    ],
)
def test_what_can_not_be_remote_is_refused(random_model, words, says):
    words = [str(random_model) if word == "MODEL" else word for word in words]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert done.exit_code in (1, 2)
    assert says in done.output


@pytest.mark.parametrize("text", ["http://a/b", "rtsp://a", "file:///a", "C:/a", "a:b.png", "x"])
def test_what_is_not_remote_stays_a_path(text):
    assert type(as_path(text)) is type(Path())


def test_a_remote_path_is_a_path():
    path = as_path(Path("memory://a/b/c.png"))
    assert str(path) == "memory://a/b/c.png"
    assert str(path.parent / "d" / "e.txt") == "memory://a/b/d/e.txt"
    assert str(path.relative_to(as_path("memory://a"))) == "b/c.png"
    assert pickle.loads(pickle.dumps(path)) == path
    assert not path.exists()
    assert path.with_suffix(".jpg").name == "c.jpg"
