"""`python -m fcnseg` and the `fcnseg` command."""

import sys

from fcnseg.cli.app import app
from fcnseg.cli.console import run


def main() -> None:
    """Run the command line."""
    sys.exit(run(app))


if __name__ == "__main__":
    main()
