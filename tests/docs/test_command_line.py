"""docs/cli.md names every command with every option, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidework.cli.main import build

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
SHARED = {"--database", "--app", "--json", "--help"}
BULK = {"--status", "--key", "--queue", "--older-than", "--yes", "--dry-run"}
COMMANDS = build().commands
NAMES = list(COMMANDS)


def options_of(name: str) -> set[str]:
    """Return the long options that a command takes."""
    return {word for parameter in COMMANDS[name].params for word in parameter.opts if word.startswith("--")}


def options_on_the_page(name: str) -> set[str]:
    """Return the options that the page gives for a command, where it stands first in its line's code."""
    found: set[str] = set()
    for usage in re.findall(r"`sidework ([^`]+)`", PAGE):
        words = usage.split()
        if words[0] == name:
            found |= set(re.findall(r"--[a-z-]+", usage))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_the_command(name: str) -> None:
    assert f"`sidework {name}" in PAGE


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_every_option_of_the_command(name: str) -> None:
    shared = SHARED | (BULK if name in {"retry", "cancel", "delete", "set-priority"} else set())
    shared -= {"--database"} if name == "demo" else set()
    assert options_of(name) - shared == options_on_the_page(name) - shared


def test_the_page_names_no_command_that_is_none() -> None:
    assert set(re.findall(r"`sidework ([a-z-]+)", PAGE)) == set(NAMES)
