"""The command line: a door to the service and its jobs."""

from __future__ import annotations


def main() -> None:
    """Run the `sidework` command; the parts of it are loaded when they are called for."""
    from sidework.cli.main import run_command_line

    run_command_line()
