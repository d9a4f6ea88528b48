"""`benchmarks/safety.py`: its control does without the fence, and says so itself where it cannot."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from sidework.storage.sqlite.pool import SQL

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "safety.py"


@pytest.fixture
def safety() -> ModuleType:
    spec = importlib.util.spec_from_file_location("safety", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_measures_every_way_and_prints_what_is_left(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--runs", "1", "--jobs", "50"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ended.stderr == ""
    rows = [line.split(" | ")[0] for line in ended.stdout.splitlines()[2:]]
    assert rows == ["| drain", "| effects", "| enqueue"]
    assert list(tmp_path.iterdir()) == []


def test_it_fails_when_safety_costs_too_much(safety: ModuleType) -> None:
    cheap, dear = dict.fromkeys(safety.MEASURED, 90.0), dict.fromkeys(safety.MEASURED, 50.0)
    bare = dict.fromkeys(safety.MEASURED, 100.0)
    runs = [{safety.SAFE: mine, safety.UNPROTECTED: bare, safety.RELAXED: bare} for mine in (cheap, dear, cheap)]
    assert safety.ratio(runs, "drain", safety.UNPROTECTED) == pytest.approx(0.9)
    assert "0.90" in list(safety.table(runs))[2]


def test_the_control_settles_whatever_the_claim(safety: ModuleType) -> None:
    assert ":claims" in SQL["settle_one"]
    bare = safety.unfenced(dict(SQL))
    assert ":claims" not in bare["settle_one"]
    assert bare["begin"] == SQL["begin"]


def test_a_control_that_finds_no_fence_says_that_it_is_out_of_date(safety: ModuleType) -> None:
    with pytest.raises(SystemExit, match="out of date"):
        safety.unfenced({"settle": "UPDATE jobs SET status = :status WHERE id = :id"})
