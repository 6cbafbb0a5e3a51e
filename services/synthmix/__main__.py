"""`python -m synthmix` is the command line."""

from synthmix.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
