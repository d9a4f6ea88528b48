"""One worker process of the demo: `python -m sidework.cli.demo.worker SETTINGS`, with a pipe to its parent as input."""

from __future__ import annotations

import os
import sys
import threading
import warnings

import msgspec

from sidework.cli.demo.work import Settings, build_service


def main() -> None:
    """Work until told to stop, or until the parent is gone."""
    warnings.simplefilter("ignore")  # files are parsed in threads, and what Python thinks of their style is no matter
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    service, _ = build_service(msgspec.json.decode(sys.argv[1], type=Settings))
    service.run()


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
