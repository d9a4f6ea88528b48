"""`python -m sidework.cli` is the `sidework` command of this interpreter."""

from sidework.cli import main

main()
