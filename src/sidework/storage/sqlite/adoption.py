"""Adopts the table that the seed made: its CHECK on the status cannot be altered, so the table is rebuilt in place.

Inside the first migration's transaction: the seed's table is set aside, the migration makes ours under its name, the
rows move in, the seed's goes. What belongs to the user comes along: further columns, indexes, triggers. What only names
the table (views, foreign keys, triggers of other tables) is not touched at all.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sidework.storage.statements import load

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

SEED_COLUMNS: Final = frozenset(
    {
        "id",
        "job_key",
        "payload",
        "status",
        "attempts",
        "max_attempts",
        "last_attempt_at",
        "last_error",
        "priority",
        "created_at",
        "updated_at",
    }
)

_REPLACED: Final = frozenset({"idx_background_jobs_status_priority", "trg_background_service_jobs_updated_at"})
"""The seed's own index and trigger. Ours have the same names, so that its CREATE ... IF NOT EXISTS finds them."""

_STATEMENTS: Final = load(Path(__file__).with_name("adoption.sql"))
_TOKEN: Final = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))|'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|.""", re.DOTALL
)


class SeedTable(msgspec.Struct, frozen=True, kw_only=True):
    """The seed's table, set aside, and what the user has attached to it."""

    definitions: tuple[str, ...]
    """Of the user's further columns, as text."""
    names: tuple[str, ...]
    """Of those whose values are stored."""
    attached: tuple[str, ...]
    """The statements that made the user's indexes and triggers."""

    @classmethod
    def set_aside(cls, connection: sqlite3.Connection) -> SeedTable:
        """Rename the seed's table and take from it what bears a name that is needed."""
        table = cls._describe(connection)
        for kind, name, _ in connection.execute(_STATEMENTS["attached"]).fetchall():
            connection.execute(_STATEMENTS[f"drop_{kind}"].replace('"/* name */"', _quoted(name)))
        connection.execute(_STATEMENTS["set_aside"])
        return table

    @classmethod
    def _describe(cls, connection: sqlite3.Connection) -> SeedTable:
        (made_by,) = connection.execute(_STATEMENTS["created_by"]).fetchone()
        columns = connection.execute(_STATEMENTS["columns"]).fetchall()
        further = [(name, hidden) for name, hidden in columns if name.lower() not in SEED_COLUMNS]
        definitions = column_definitions(made_by)
        return cls(
            definitions=tuple(definitions[name.lower()] for name, _ in further),
            names=tuple(name for name, hidden in further if not hidden),
            attached=tuple(
                sql for _, name, sql in connection.execute(_STATEMENTS["attached"]) if name.lower() not in _REPLACED
            ),
        )

    def move_in(self, connection: sqlite3.Connection) -> None:
        """Fill our table from the seed's, and give it what the user had attached."""
        for definition in self.definitions:
            connection.execute(_STATEMENTS["add_column"].replace("/* definition */", definition))
        further = "".join(f", {_quoted(name)}" for name in self.names)
        connection.execute(_STATEMENTS["copy"].replace("/* further columns */", further))
        self._keep_highest_id(connection)
        connection.execute(_STATEMENTS["drop_the_seeds"])
        for statement in self.attached:
            connection.execute(statement)

    def _keep_highest_id(self, connection: sqlite3.Connection) -> None:
        """An id that was ever given to a job, even one deleted since, is never given again."""
        (highest,) = connection.execute(_STATEMENTS["highest_id_ever"]).fetchone()
        if highest is not None:
            connection.execute(_STATEMENTS["forget_highest_id"])
            connection.execute(_STATEMENTS["keep_highest_id"], {"highest": highest})


def column_definitions(create_table: str) -> dict[str, str]:
    """Return the text that defines each column, without comments, by the column's name in lower case.

    Nothing else in SQLite tells a column's collation, check, reference or the expression it is computed by. Constraints
    of the table appear under their first word.
    """
    parts = (part.strip() for part in _split(create_table))
    return {_name(part).lower(): part for part in parts}


def _split(create_table: str) -> Iterator[str]:
    """Yield what stands between the commas of the outermost parentheses."""
    depth, part = 0, ""
    for token in _TOKEN.finditer(create_table):
        text = " " if token["comment"] else token[0]
        if text == ")":
            depth -= 1
        if depth == 0 or (depth == 1 and text == ","):
            if part:
                yield part
            part = ""
        else:
            part += text
        if text == "(":
            depth += 1


def _name(definition: str) -> str:
    first = _TOKEN.match(definition)
    text = first[0] if first else ""
    if len(text) == 1:
        return re.split(r"[\s(]", definition, maxsplit=1)[0]
    quote = text[-1]
    return text[1:-1] if quote == "]" else text[1:-1].replace(quote * 2, quote)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
