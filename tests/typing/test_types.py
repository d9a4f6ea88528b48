"""The public face means to mypy and pyright what `uses.py` says; both are as strict as they can be.

An ignore that is not needed is an error there, so that losing an overload, or a parameter's type, fails this test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
USES = HERE / "uses.py"

MYPY = [
    "mypy",
    "--strict",
    "--warn-unused-ignores",
    "--config-file=",
    f"--python-version={sys.version_info.major}.{sys.version_info.minor}",
]
PYRIGHT = ["pyright", f"--pythonpath={sys.executable}"]


def checked(command: list[str], file: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    if find_spec(command[0]) is None and os.environ.get("CI") != "true":
        pytest.skip(f"{command[0]} is not installed; pip install 'sidework[check]'")
    environment = os.environ | {"MYPY_CACHE_DIR": str(tmp_path / "mypy"), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command, str(file)],
        cwd=tmp_path,  # away from the project's own configuration
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_right_uses_pass_and_wrong_uses_do_not(command: list[str], tmp_path: Path) -> None:
    result = checked(command, USES, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("command", [MYPY, PYRIGHT], ids=["mypy", "pyright"])
def test_the_check_can_fail(command: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "# pyright: strict, reportUnnecessaryTypeIgnoreComment=true\n"
        "from sidework import BackgroundService\n\n"
        'service = BackgroundService("app.db")\n\n\n'
        "@service.handler\n"
        "def greet(name: str) -> None: ...\n\n\n"
        "greet.enqueue(name=7)\n"
        'greet.enqueue(name="ada")  # type: ignore\n'
    )
    result = checked(command, wrong, tmp_path)
    assert result.returncode == 1
    assert "wrong.py:11:" in result.stdout
    assert "wrong.py:12:" in result.stdout
