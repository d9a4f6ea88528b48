"""How the tests and the long form start campaigns: each in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT: Final = Path(__file__).resolve().parents[2]


def campaign(name: str, *arguments: object, preload: Path | None = None, timeout: float = 100.0) -> dict[str, Any]:
    """Run a campaign of this package under observation; return the figures that it prints."""
    return figures_of(["tests.faults.child", name], *arguments, preload=preload, timeout=timeout)


def campaigns(name: str, *arguments: object, seeds: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Run a campaign with one seed after another, for as long as the caller asks: a control may need several."""
    for seed in seeds:
        yield campaign(name, *arguments, "--seed", seed)


def figures_of(
    module: list[str], *arguments: object, preload: Path | None = None, timeout: float = 100.0
) -> dict[str, Any]:
    """Run a module in a process of its own; return the figures that it prints."""
    command = [sys.executable, "-m", *module, *map(str, arguments)]
    environment = dict(os.environ, **({"LD_PRELOAD": str(preload)} if preload else {}))
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        raise AssertionError(f"{' '.join(command)} took more than {timeout} s:\n{said[-4000:]}") from error
    assert ended.returncode == 0, f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr[-4000:]}"
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def percentile(seconds: list[float], share: float) -> float:
    """Return the value below which such a share of the measurements lies; 0 if there are none."""
    ordered = sorted(seconds)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
