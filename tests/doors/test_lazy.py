"""What is loaded when: `--help` and `import sidework` must be fast."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"rich", "pydantic", "sqlite3", "_sqlite3", "aiosqlite", "inotify_simple"}


def loaded_by(code: str) -> set[str]:
    """Return the top names of the modules that a program has loaded when it ends."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('loaded:', *sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return {name.partition(".")[0] for name in ended.stdout.splitlines()[-1].split()}


def test_import_sidework_loads_neither_rich_nor_a_driver() -> None:
    assert loaded_by("import sidework") & (HEAVY | {"click"}) == set()


@pytest.mark.parametrize("command", ["", "run", "move", "demo", "jobs"])
def test_help_loads_neither_rich_nor_a_driver(command: str) -> None:
    words = [*command.split(), "--help"]
    loaded = loaded_by(f"import sys; sys.argv[1:] = {words}; from sidework.cli import main; main()")
    assert "click" in loaded
    assert loaded & HEAVY == set()


def test_a_command_with_json_loads_no_rich() -> None:
    loaded = loaded_by("import sys; sys.argv[1:] = ['version', '--json']; from sidework.cli import main; main()")
    assert "rich" not in loaded
