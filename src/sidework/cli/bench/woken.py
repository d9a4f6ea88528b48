"""The raw limit of pickup, as a process: `python -m sidework.cli.bench.woken DATABASE`.

Woken by a line on its input, it claims one row in plain `sqlite3` and says when that was committed.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from sidework.cli.bench import raw
from sidework.clock import SystemClock


def main() -> None:
    """Be the process."""
    clock, claim = SystemClock(), raw.statements()["claim"]
    with closing(raw.connect(Path(sys.argv[1]))) as connection:
        print("ready", flush=True)
        while sys.stdin.readline():
            connection.execute(claim, {"now": raw.NOW, "most": 1}).fetchall()
            print("noted", clock.monotonic(), flush=True)


if __name__ == "__main__":
    main()
