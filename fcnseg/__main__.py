"""`python -m fcnseg` and the `fcnseg` command."""

import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is loaded ends it in one line, too."""
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


if __name__ == "__main__":
    main()
