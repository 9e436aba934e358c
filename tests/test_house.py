"""The house stays in order: imports go down, edges stay in their rooms, docs match the code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import structure

PACKAGE = Path(__file__).parent.parent / "fcnseg"
ROOT = PACKAGE.parent

STRUCTURE = structure.measure(PACKAGE)
ONE_FILE_EACH = {"datasets/formats", "models/backbones"}
"""Folders of which docs/architecture.md says that a new part is a new file: they may grow."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_lives_in_a_known_room() -> None:
    assert {name.partition(".")[0] for name in STRUCTURE.imports} <= set(structure.LEVEL)


def test_imports_only_go_down() -> None:
    assert STRUCTURE.upward == []
    assert STRUCTURE.cycles == []
    assert STRUCTURE.private == []


def test_no_name_of_a_package_is_hidden_by_one_of_its_modules() -> None:
    """Importing fcnseg.cli.console sets the attribute `console` of fcnseg.cli."""
    for path in PACKAGE.rglob("__init__.py"):
        modules = {each.stem for each in path.parent.iterdir()}
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = {getattr(node, "name", "")} | {
                getattr(target, "id", "") for target in getattr(node, "targets", ())
            }
            assert not names & modules, f"{path}: {names & modules}"


def test_files_and_folders_are_small() -> None:
    largest = max(STRUCTURE.lines, key=lambda name: STRUCTURE.lines[name])
    assert STRUCTURE.lines[largest] <= 350, largest
    assert STRUCTURE.lines["models.fcn"] <= 300, "the whole network, read from top to bottom"
    folders = {
        name: count for name, count in STRUCTURE.folders.items() if name not in ONE_FILE_EACH
    }
    fullest = max(folders, key=lambda name: folders[name])
    assert folders[fullest] <= 12, fullest
    assert sum(folders.values()) <= 188, "merge small modules before you add one"


def test_functions_and_chains_are_short() -> None:
    longest = max(STRUCTURE.functions, key=lambda name: STRUCTURE.functions[name])
    assert STRUCTURE.functions[longest] <= 55, longest
    assert len(STRUCTURE.chain) <= 12, STRUCTURE.chain


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_edges_stay_in_their_rooms(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports_of(path)}
    if room_of(path) != "io":
        assert "cv2" not in tops, "OpenCV belongs to io/"
    if room_of(path) != "cli":
        assert not tops & {"typer", "rich"}, "the terminal belongs to cli/"
    assert "click" not in tops, "Typer brings a Click of its own"


def test_text_meets_the_terminal_in_one_place() -> None:
    """What is printed goes through `shown`: names are no markup and no terminal's commands."""
    for path in (path for path in MODULES if path != PACKAGE / "cli" / "__init__.py"):
        calls = [
            node.func for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "func")
        ]
        names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
        assert not names & {"print_exc", "Console", "Text", "from_markup"}, path
        assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), path


def test_help_and_import_load_no_torch() -> None:
    code = (
        "import sys, fcnseg\n"
        "from fcnseg.cli.app import app\n"
        "for command in ([], ['train'], ['infer'], ['viz']):\n"
        "    try: app([*command, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0, command\n"
        "heavy = {'torch', 'torchvision', 'cv2', 'numpy.random'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_public_names_exist() -> None:
    import fcnseg

    for name in fcnseg.__all__:
        assert getattr(fcnseg, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = fcnseg.nothing_such


def command_names() -> list[str]:
    from fcnseg.cli.app import app

    return [command.name for command in app.registered_commands if command.name] + ["doctor"]


def test_every_command_is_documented() -> None:
    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in command_names():
        if name != "visualize":  # the long name of viz
            assert f"`fcnseg {name}`" in reference, f"run `make docs`: {name} is missing"
            assert f"fcnseg {name}" in readme


def test_the_reference_is_up_to_date() -> None:
    """docs/cli.md and the manual page are generated; they name every flag there is."""
    from typer.main import get_command

    from fcnseg.cli.app import app

    reference = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    manual = (ROOT / "docs" / "fcnseg.1").read_text(encoding="utf-8").replace("\\-", "-")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        if command.hidden:
            continue
        section = reference.split(f"## `fcnseg {name}`")[1].split("\n## ")[0]
        entry = manual.split(f"\n.SS fcnseg {name}\n")[1].split("\n.S")[0]
        for parameter in command.params:
            if getattr(parameter, "hidden", False):  # another spelling
                continue
            for flag in parameter.opts if parameter.param_type_name == "option" else []:
                both = flag in section and flag in entry
                assert both, f"run `make docs`: {name} {flag} is missing"


def test_nothing_is_left_open() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for word in ("TODO", "FIXME", "XXX", "raise NotImplementedError"):
            assert word not in text, f"{path}: {word}"
