"""Measure the structure of the package: files, lines, imports. `python benchmarks/structure.py`

Counts what CONTRIBUTING.md specifies and tests/test_house.py enforces: modules and their lines,
modules per folder, the longest function, the longest chain of imports, cycles, upward imports, and
private names imported by other modules.
"""

from __future__ import annotations

import argparse
import ast
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "fcnseg"

LEVELS = (  # from the top down: a module imports from lower levels, or from its own folder
    ("__init__", "__main__"),
    ("cli",),
    ("commands",),
    ("training", "viz", "report", "serving"),
    ("inference",),
    ("exporting",),
    ("engines", "datasets"),
    ("models",),
    ("metrics",),
    ("io",),
    ("distributed",),
    (
        "classes",
        "concurrency",
        "config",
        "device",
        "files",
        "notebook",
        "overwriting",
        "progress",
        "remote",
    ),
    ("errors",),
)
LEVEL = {folder: level for level, folders in enumerate(LEVELS) for folder in folders}


@dataclass
class Structure:
    """The counts. Module names are relative to the package: "io.images", "io.sources"."""

    lines: dict[str, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    imports: dict[str, set[str]] = field(default_factory=dict)
    private: list[str] = field(default_factory=list)

    @property
    def folders(self) -> dict[str, int]:
        """Modules in each folder, its __init__ included."""
        counts: dict[str, int] = {}
        for path in PACKAGE.rglob("*.py"):
            folder = path.parent.relative_to(PACKAGE).as_posix()
            counts[folder] = counts.get(folder, 0) + 1
        return counts

    @property
    def upward(self) -> list[str]:
        """Imports from the same level or above, outside the module's own folder."""
        found = []
        for module, names in self.imports.items():
            folder = module.partition(".")[0]
            for name in names:
                other = name.partition(".")[0]
                mutual = LEVELS[-2]  # the small modules of this level may import each other
                if other == folder or (folder in mutual and other in mutual):
                    continue
                if LEVEL[other] <= LEVEL[folder]:
                    found.append(f"{module} imports {name}")
        return sorted(found)

    @property
    def cycles(self) -> list[str]:
        """Cycles of imports at import time, one line each."""
        state: dict[str, int] = {}
        found: list[str] = []

        def visit(module: str, way: tuple[str, ...]) -> None:
            state[module] = 1
            for name in sorted(self.imports.get(module, ())):
                if state.get(name) == 1:
                    found.append(" -> ".join((*way[way.index(name) :], name)))
                elif name not in state:
                    visit(name, (*way, name))
            state[module] = 2

        for module in sorted(self.imports):
            if module not in state:
                visit(module, (module,))
        return found

    @property
    def chain(self) -> list[str]:
        """The longest chain of imports, from the top down."""

        @cache
        def longest(module: str) -> tuple[str, ...]:
            below = (longest(name) for name in sorted(self.imports.get(module, ())))
            return (module, *max(below, key=len, default=()))

        if self.cycles:
            return []
        return list(max((longest(module) for module in sorted(self.imports)), key=len))


def measure(package: Path = PACKAGE) -> Structure:
    """Read every module of the package with `ast`; nothing is imported."""
    paths = {_name(path, package): path for path in sorted(package.rglob("*.py"))}
    found = Structure()
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        found.lines[name] = len(text.splitlines())
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                found.functions[f"{name}:{node.name}"] = node.end_lineno - node.lineno + 1
        if name == "__init__":  # it imports lazily from all modules
            continue
        found.imports[name] = set()
        for node in _imports(tree):
            source = (node.module or "").removeprefix("fcnseg").lstrip(".")
            for alias in node.names:
                module = f"{source}.{alias.name}".lstrip(".")
                target = module if module in paths else source
                if target not in ("", name):
                    found.imports[name].add(target)
                if alias.name.startswith("_") and not alias.name.startswith("__"):
                    found.private.append(f"{name} imports {source}.{alias.name}")
    return found


def _name(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imports(tree: ast.Module) -> list[ast.ImportFrom]:
    """Imports of modules of the package that run when a module is imported."""
    found: list[ast.ImportFrom] = []
    for node in tree.body:
        inner = [node, *ast.walk(node)] if isinstance(node, ast.Try) else [node]
        froms = (each for each in inner if isinstance(each, ast.ImportFrom))
        found += [each for each in froms if (each.module or "").split(".")[0] == "fcnseg"]
    return found


def main() -> None:
    """Print the counts, the largest first."""
    found = measure()
    largest = sorted(found.lines.items(), key=lambda item: -item[1])[:5]
    longest = sorted(found.functions.items(), key=lambda item: -item[1])[:5]
    crowded = sorted(found.folders.items(), key=lambda item: -item[1])[:5]
    print(f"modules           {len(found.lines)}")
    print(f"lines             {sum(found.lines.values())}")
    print("largest modules   " + ", ".join(f"{name} {count}" for name, count in largest))
    print("longest functions " + ", ".join(f"{name} {count}" for name, count in longest))
    print("fullest folders   " + ", ".join(f"{name} {count}" for name, count in crowded))
    print(f"longest chain     {len(found.chain)}: " + " > ".join(found.chain))
    for title, faults in (
        ("cycle", found.cycles),
        ("upward import", found.upward),
        ("private import", found.private),
    ):
        for fault in faults:
            print(f"{title}: {fault}")
    sys.exit(bool(found.cycles or found.upward or found.private))


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    main()
