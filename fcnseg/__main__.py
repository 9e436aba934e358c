"""`python -m fcnseg` and the `fcnseg` command."""

from fcnseg.cli.app import app


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
