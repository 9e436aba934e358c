"""What the documents show is true: code runs and is typed, flags exist, links lead somewhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

from fcnseg.cli.app import COMMANDS, app
from fcnseg.cli.flags import repeat_hint
from fcnseg.config.options import options_of
from tests.test_api import TYPED

ROOT = Path(__file__).parent.parent
CARD = ROOT / "fcnseg/models/zoo/nuclei.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/**/*.md"), CARD]
)
WITH_PYTHON = [path for path in DOCUMENTS if "```python" in path.read_text(encoding="utf-8")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def run_python(code: str, folder: Path) -> str:
    """What a script prints; trainings are made small."""
    small = 'epochs=1, backbone="tiny", backbone_weights="none", width=16, workers=0'
    done = subprocess.run(
        [sys.executable, "-c", re.sub(r"\bepochs=\d+", small, code)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", [p for p in WITH_PYTHON if p.name != "README.md"], ids=name_of)
def test_python_runs(path: Path, data: Path, drawn_clip: Path, tmp_path: Path) -> None:
    """The blocks of one document, one after the other, in a folder with the files they name."""
    shutil.copytree(data, tmp_path / "photos")
    shutil.copy(drawn_clip, tmp_path / "clip.mp4")
    shutil.copy(data / "images/val/0000.png", tmp_path / "cells.png")
    run_python("\n".join(blocks(path, "python")), tmp_path)


OTHERS = {"cvat_function": ["cvat_sdk"], "label_studio_backend": ["label_studio_ml"]}
"""Examples that are parts of other programs, and the packages of these."""


def test_python_is_typed(tmp_path: Path) -> None:
    """A user's `mypy --strict` is content with every example, and with every public name."""
    (tmp_path / "every_name.py").write_text(TYPED, encoding="utf-8")
    for path in WITH_PYTHON:
        script = tmp_path / f"{path.stem.lower()}_md.py"
        script.write_text("\n".join(blocks(path, "python")), encoding="utf-8")
    notebook = json.loads((ROOT / "examples/quickstart.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    (tmp_path / "quickstart.py").write_text("\n".join(cells), encoding="utf-8")
    examples = [
        example
        for example in ROOT.glob("examples/*.py")
        if all(map(find_spec, OTHERS.get(example.stem, ())))
    ]
    scripts = [*tmp_path.glob("*.py"), *examples]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *map(str, scripts)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def command_lines(text: str) -> list[list[str]]:
    """Every `fcnseg COMMAND ...` of a document, in words; continued lines are joined."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"(?<![\w./-])fcnseg ([a-z]+)( [^`\n#|]*)?", joined)
    return [[command, *rest.split()] for command, rest in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_flags_exist(path: Path) -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command, *words in command_lines(path.read_text(encoding="utf-8")):
        if command not in commands:
            assert not any(word.startswith("--") for word in words), (command, words)
            continue
        known = {flag for p in commands[command].params for flag in (*p.opts, *p.secondary_opts)}
        for word in words:
            flag = re.match(r"--[a-z][a-z-]*|-[a-z]$", word)
            assert not flag or flag[0] in known, f"{path.name}: fcnseg {command} {word}"


@pytest.mark.parametrize("words", command_lines((ROOT / "docs/recipes.md").read_text("utf-8")))
def test_recipes_are_accepted(words: list[str]) -> None:
    """Every option has a value that it takes."""
    command, *rest = words
    parsed = get_command(app).commands[command].make_context(command, rest)  # type: ignore[attr-defined]
    options = COMMANDS[command].options
    known = options_of(options)
    given = {
        name: v for name, v in parsed.params.items() if name in known and v not in (None, [], ())
    }
    once = {name: v[0] if repeat_hint(name, known[name]) else v for name, v in given.items()}
    assert options.make(once).chosen()


def anchors_of(path: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), target
