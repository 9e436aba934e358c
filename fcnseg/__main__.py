"""`python -m fcnseg` and the `fcnseg` command."""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Run the command line; Ctrl-C while it loads prints one line, no traceback."""
    _open_missing_streams()
    try:
        from fcnseg.cli.app import app
        from fcnseg.cli.console import run

        status = run(app)
    except KeyboardInterrupt:  # no command has begun yet
        sys.stderr.write("Interrupted.\n")
        status = 130
    status = _flush(status)
    if status == 130:  # a second Ctrl-C during Python's shutdown ends it without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


def _flush(status: int) -> int:
    """Write what is left of standard output, or drop it: Python would fail at it once more, with
    lines of its own and status 120. Returns the exit status."""
    try:
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
        if status == 0 and not isinstance(error, BrokenPipeError):
            sys.stderr.write(f"error: {error.strerror}.\n")
        return status or 1
    return status


def _open_missing_streams() -> None:
    """Open /dev/null for closed streams (2>&-); else the next open file would get their output."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good


if __name__ == "__main__":
    main()
