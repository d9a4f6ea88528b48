"""`python -m tests.faults.child NAME [ARGUMENTS]`: run one campaign in a process whose sqlite3 is observed."""

from __future__ import annotations

import importlib
import sys

from tests.faults import observed

if __name__ == "__main__":
    observed.install()
    importlib.import_module(f"tests.faults.{sys.argv[1]}").main(sys.argv[2:])
