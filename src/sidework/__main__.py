"""`python -m sidework` is the `sidework` command of this interpreter."""

from sidework.cli import main

main()
