"""A checkpoint in another format, proven to give the same answers before it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fcnseg.errors import CheckpointError, FcnsegError, MediaError
from fcnseg.files import folder_beside
from fcnseg.models.checkpoint import Checkpoint
from fcnseg.runtime.engines import TorchEngine
from fcnseg.runtime.formats import FORMATS
from fcnseg.runtime.parity import SIZES, Parity, Run, compare
from fcnseg.signals import held_back


def convert(
    checkpoint: Checkpoint,
    path: Path,
    format: str,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> Parity:
    """Write a checkpoint in another format, prove that it answers alike, then name the file.

    CheckpointError when it does not; `path` is then as it was before.
    """
    kind = FORMATS[format]
    with written_whole(path) as written:
        kind.write(checkpoint, written)
        logits, labels = kind.run(written)
        parity = compare(_original(checkpoint), logits, labels=labels, sizes=sizes)
        if not parity.holds:
            raise CheckpointError(
                f"The {format} file does not give the original's answers: logits differ by "
                f"up to {parity.max_abs_diff:.3g}, labels agree on "
                f"{parity.label_agreement:.2%} of pixels (99.9 % are needed).",
                hint="nothing was written; please report this with the checkpoint's options",
            )
    return parity


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file in a folder of its own, which gets its name only when the block ends well.

    What was written beside it comes along, before it. MediaError where the system refuses.
    """
    try:
        with folder_beside(path) as folder:
            written = folder / path.name
            yield written
            with held_back():  # they belong together
                for part in sorted(written.parent.iterdir(), key=lambda part: part == written):
                    part.replace(path.parent / part.name)
    except OSError as error:
        if isinstance(error, FcnsegError):
            raise
        raise MediaError(f"Can't write {path}: {error.strerror or error}.") from error


def _original(checkpoint: Checkpoint) -> Run:
    """The network as it was trained, not as it is exported."""
    return TorchEngine(checkpoint.build(), checkpoint.preprocess).logits
