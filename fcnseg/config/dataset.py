"""The options of `fcnseg check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from fcnseg.config.choices import Flag
from fcnseg.config.options import STRICT, Options


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckConfig(Options):
    """Look at a dataset folder: say what it is and what is wrong with it."""

    verb: ClassVar[str] = "check"
    data: Annotated[
        Path,
        Field(description="The dataset: a folder, a list of pairs (CSV) or a dataset.toml."),
        Flag(argument=True, metavar="DATA"),
    ]
    contact: Annotated[
        Path,
        Field(description="Where to write a sheet of pictures with their labels over them."),
        Flag(metavar="FILE"),
    ] = Path("runs/check/contact.png")
    write: Annotated[
        Path | None,
        Field(description="Write what was found as a dataset.toml, to correct and to train on."),
        Flag(metavar="FILE"),
    ] = None
    fix: Annotated[
        Path | None,
        Field(description="Write a clean copy of the dataset into this new folder."),
        Flag(metavar="OUT"),
    ] = None
