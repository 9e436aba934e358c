"""What `mkdocs build` needs besides mkdocs.yml: two pages, and links out of docs/.

On the repository's pages a link such as ../fcnseg/models/fcn.py opens the file. The site has no
such files: there the link becomes the file's name, or a link into `repo_url` once there is one.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#\s]+)(#[^)]*)?\)")

RELATIVE = re.compile(r"\]\((?!\w+:|#)")

log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Any, config: Any) -> Any:
    """Add the README as the first page, and one of every name that the package exports."""
    import fcnseg

    readme = (ROOT / "README.md").read_text("utf-8")
    first = RELATIVE.sub("](../", readme).replace("](../docs/", "](")
    names = sorted(fcnseg.__all__, key=str.lower)
    api = "# API reference\n\n" + "\n\n".join(f"::: fcnseg.{name}" for name in names) + "\n"
    for name, text in {"index.md": first, "api.md": api}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Replace links to files outside of docs/; a warning for what is not there."""

    def replaced(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2].rstrip("/"), match[3] or ""
        if not (ROOT / path).exists():
            log.warning("%s: there is no %s", page.file.src_path, path)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"
        return f"`{path}`" if text.replace("\\", "") in path else f"{text} (`{path}`)"

    return LINK.sub(replaced, markdown)
