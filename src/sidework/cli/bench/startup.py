"""How soon `sidework run` works, and what `--help` loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sidework.cli.bench.figure import Figure, Goal, figure
from sidework.cli.bench.handlers import build_service
from sidework.cli.bench.processes import running_service
from sidework.cli.bench.site import Site, remove, seconds_of, take_turns
from sidework.clock import SystemClock

HEAVY = ("rich", "sqlite3", "aiosqlite", "inotify_simple")
"""What `--help` has no use for."""
_COUNT_HEAVY = (
    "import sys; sys.argv[1:] = ['--help']; from sidework.cli import main\n"
    "try: main()\nexcept SystemExit: pass\n"
    f"print(sum(name in sys.modules for name in {HEAVY!r}), file=sys.stderr)"
)


def measure(site: Site) -> list[Figure]:
    """Measure the first job of `sidework run`, from before the process is started; and `--help`."""
    first, bare = take_turns(site.runs, lambda: _first_job(site), _bare_python)
    helps = [seconds_of(_help) * 1000 for _ in range(site.runs)]
    return [
        figure(
            "startup",
            "first job",
            "ms",
            first,
            raws=bare,
            against="python -c pass",
            goal=Goal(of="value", at_most=500),
        ),
        figure("startup", "--help", "ms", helps),
        figure(
            "startup",
            "heavy modules that --help loads",
            "modules",
            [_heavy_modules_of_help()],
            goal=Goal(of="value", at_most=0),
        ),
    ]


def _first_job(site: Site) -> float:
    """Return the milliseconds from the command to the start of a handler whose job waits already."""
    database: Path = site.fresh()
    service = build_service(database)
    service.enqueue("note", {"n": 1})
    service.close()
    before = SystemClock().monotonic()
    with running_service(database) as process:
        noted = float(process.hear("noted"))
    remove(database)
    return (noted - before) * 1000


def _bare_python() -> float:
    return seconds_of(lambda: _python("-c", "pass")) * 1000


def _help() -> None:
    _python("-m", "sidework", "--help")


def _heavy_modules_of_help() -> float:
    return float(_python("-c", _COUNT_HEAVY).stderr)


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
