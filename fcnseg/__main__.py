"""`python -m fcnseg` and the `fcnseg` command."""

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
    sys.exit(status)


if __name__ == "__main__":
    main()
