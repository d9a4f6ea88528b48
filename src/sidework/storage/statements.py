"""Reads named statements from a .sql file: each stands below a line `-- :name its_name`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_HEADER = re.compile(r"^-- :name (\w+)$", re.MULTILINE)


def load(path: Traversable) -> dict[str, str]:
    """Return the statements of a file by name, without the comments that stand before them.

    Raises ValueError where a name stands twice: the second would silently hide the first.
    """
    _, *parts = _HEADER.split(path.read_text(encoding="utf-8"))
    names, bodies = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} names a statement twice")
    return {name: _without_comments(body) for name, body in zip(names, bodies, strict=True)}


def _without_comments(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("--"))
    return "\n".join(lines).strip().rstrip(";")
