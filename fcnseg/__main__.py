"""`python -m fcnseg` and the `fcnseg` command."""

import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Run the command line; Ctrl-C while it is loaded ends it in one line, too."""
    _open_missing_streams()
    try:
        from fcnseg.cli.app import app
        from fcnseg.cli.console import run

        status = run(app)
    except KeyboardInterrupt:  # no command has begun yet
        sys.stderr.write("Interrupted.\n")
        status = 130
    if status == 130:  # a second Ctrl-C ends what Python does at its exit, and prints nothing
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


def _open_missing_streams() -> None:
    """What the caller has closed (2>&-) is /dev/null: the next file would get its messages."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for good


if __name__ == "__main__":
    main()
