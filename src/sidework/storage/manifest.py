"""What is moved from one database to another: tables, their columns in order, and how a row becomes a line of text.

The lines are those of PostgreSQL's COPY: values in one fixed form, with tabs between them. The same row is the same
line on both sides, so that a checksum over the lines compares what was sent with what has arrived. Whatever has no such
line is found here, by table, column and id, and never guessed at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any, Final

import msgspec

Row = Sequence[Any]

_NULL: Final = r"\N"
_ESCAPES: Final = str.maketrans(
    {"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
)
_EARLIEST: Final = "0001-01-02T00:00:00.001Z"
_LATEST: Final = "9999-12-29T23:59:59.999Z"
_LONGEST_KEY: Final = 2600
"""Bytes: an entry of an index of PostgreSQL has room for about 2,700."""
_NEVER_TOO_LONG: Final = _LONGEST_KEY // 4
_SHOWN_IDS: Final = 10


class Kind(Enum):
    """What a column holds."""

    INTEGER = auto()
    TEXT = auto()
    MOMENT = auto()
    """ISO 8601, UTC, milliseconds; finer parts are cut off."""
    REAL = auto()
    FLAG = auto()


class Column(msgspec.Struct, frozen=True):
    """One column."""

    name: str
    kind: Kind
    nullable: bool = False


class Table(msgspec.Struct, frozen=True):
    """A table that is moved. Its first column is its key, and its rows travel in the order of it."""

    name: str
    columns: tuple[Column, ...]

    @property
    def full_name(self) -> str:
        """How the table is called in the database."""
        return f"background_service_{self.name}"

    def in_form(self, line: bytes) -> bytes:
        """Return a line that somebody else wrote, with numbers as we write them: there are several for each."""
        places = [place for place, column in enumerate(self.columns) if column.kind is Kind.REAL]
        if not places:
            return line
        fields = line.rstrip(b"\n").split(b"\t")
        for place in places:
            if fields[place] != _NULL.encode():
                fields[place] = repr(float(fields[place])).encode()
        return b"\t".join(fields) + b"\n"


JOBS: Final = Table(
    "jobs",
    (
        Column("id", Kind.INTEGER),
        Column("job_key", Kind.TEXT),
        Column("status", Kind.TEXT),
        Column("queue", Kind.TEXT),
        Column("priority", Kind.INTEGER),
        Column("attempts", Kind.INTEGER),
        Column("max_attempts", Kind.INTEGER),
        Column("crashes", Kind.INTEGER),
        Column("claims", Kind.INTEGER),
        Column("worker", Kind.INTEGER, nullable=True),
        Column("created_at", Kind.MOMENT),
        Column("updated_at", Kind.MOMENT),
        Column("last_attempt_at", Kind.MOMENT, nullable=True),
        Column("finished_at", Kind.MOMENT, nullable=True),
        Column("run_at", Kind.MOMENT, nullable=True),
        Column("unique_key", Kind.TEXT, nullable=True),
        Column("options", Kind.TEXT, nullable=True),
        Column("payload", Kind.TEXT, nullable=True),
        Column("result", Kind.TEXT, nullable=True),
        Column("last_error", Kind.TEXT, nullable=True),
    ),
)
QUEUES: Final = Table(
    "queues",
    (Column("name", Kind.TEXT), Column("paused", Kind.FLAG), Column("running_limit", Kind.INTEGER, nullable=True)),
)
CANCELLATIONS: Final = Table("cancellations", (Column("job_id", Kind.INTEGER), Column("requested_at", Kind.MOMENT)))
PROGRESS: Final = Table(
    "progress",
    (
        Column("job_id", Kind.INTEGER),
        Column("done", Kind.REAL),
        Column("total", Kind.REAL, nullable=True),
        Column("message", Kind.TEXT, nullable=True),
        Column("updated_at", Kind.MOMENT),
    ),
)
LOG: Final = Table(
    "log",
    (
        Column("id", Kind.INTEGER),
        Column("job_id", Kind.INTEGER),
        Column("at", Kind.MOMENT),
        Column("message", Kind.TEXT),
    ),
)
TABLES: Final = (JOBS, QUEUES, CANCELLATIONS, PROGRESS, LOG)
"""Everything but the workers, who belong to their processes."""

_PLACE: Final = {column.name: place for place, column in enumerate(JOBS.columns)}
_KEY, _STATUS, _QUEUE = _PLACE["job_key"], _PLACE["status"], _PLACE["queue"]
_CLAIMS, _CREATED_AT, _UNIQUE_KEY = _PLACE["claims"], _PLACE["created_at"], _PLACE["unique_key"]


class Check(msgspec.Struct, frozen=True):
    """What a table is compared by: the number of its rows, and the SHA-256 of their lines in order."""

    rows: int
    checksum: str


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is to move."""

    rows: Mapping[str, int]
    """Table -> rows."""
    statuses: Mapping[str, int]
    """Status -> jobs; only those that occur."""
    highest: Mapping[str, int]
    """jobs, workers, log -> the highest id that was ever given, 0 if none."""


class Misfit(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that cannot be moved for one reason."""

    table: str
    column: str
    reason: str
    count: int
    ids: tuple[str, ...]
    """The first of them."""

    def __str__(self) -> str:
        """One line for people."""
        named = ", ".join(self.ids) + (", ..." if self.count > len(self.ids) else "")
        rows = "1 row" if self.count == 1 else f"{self.count:,} rows"
        return f"background_service_{self.table}.{self.column} {self.reason}: {rows} ({named})"


class Packer:
    """Turns the rows of one table into lines, and keeps account of those that do not fit."""

    def __init__(self, table: Table) -> None:
        """Begin with none."""
        self._table = table
        self._writers = tuple(_writer(column) for column in table.columns)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._ids: dict[tuple[str, str], list[str]] = {}

    @property
    def misfits(self) -> list[Misfit]:
        """What did not fit until now."""
        return [
            Misfit(
                table=self._table.name, column=column, reason=reason, count=count, ids=tuple(self._ids[column, reason])
            )
            for (column, reason), count in self._counts.items()
        ]

    def pack(self, rows: Sequence[Row]) -> bytes:
        """Return the lines of rows; those that do not fit are left out and accounted for."""
        lines = [line for row in rows if (line := self._line(row)) is not None]
        return "".join(lines).encode()

    def _line(self, row: Row) -> str | None:
        try:
            fields = [write(value) for write, value in zip(self._writers, row, strict=True)]
            if self._table is JOBS:
                _refuse_what_no_job_may_have(row, fields)
            return _joined(fields)
        except _MisfitError:
            self._account(row)
            return None

    def _account(self, row: Row) -> None:
        reason = column = ""
        try:
            for each, write, value in zip(self._table.columns, self._writers, row, strict=True):
                column = each.name
                _escaped(write(value))
            if self._table is JOBS:
                column = "created_at"
                _refuse_another_idempotency_key(row)
                column = "unique_key" if row[_UNIQUE_KEY] else "job_key"
                _refuse_long_keys(row)
        except _MisfitError as error:
            reason = str(error)
        self._counts[column, reason] += 1
        ids = self._ids.setdefault((column, reason), [])
        if len(ids) < _SHOWN_IDS:
            ids.append(_shown(row[0]))


class _MisfitError(Exception):
    """A value that has no line; says why."""


def _writer(column: Column) -> Callable[[Any], str]:
    write = _WRITERS[column.kind]
    if not column.nullable:
        return write

    def write_or_null(value: Any) -> str:
        return _NULL_FIELD if value is None else write(value)

    return write_or_null


class _NullField(str):
    """NULL, which is the one field that is not escaped."""

    __slots__ = ()


_NULL_FIELD: Final = _NullField(_NULL)


def _joined(fields: list[str]) -> str:
    # The usual line has nothing to escape but its own NULLs, and that is seen at a glance over all fields at once.
    together = "".join([field for field in fields if field is not _NULL_FIELD])
    if not together.isprintable() or "\\" in together:
        fields = [_escaped(field) for field in fields]
    return "\t".join(fields) + "\n"


def _escaped(field: str) -> str:
    if field is _NULL_FIELD:
        return field
    if "\0" in field:
        raise _MisfitError("holds a NUL character")
    try:
        field.encode()
    except UnicodeEncodeError:
        raise _MisfitError("is not UTF-8, or holds a lone surrogate") from None
    return field.translate(_ESCAPES)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise _MisfitError(f"is {_type_of(value)} and no text")
    return value


def _integer(value: Any) -> str:
    if type(value) is not int:
        raise _MisfitError(f"is {_type_of(value)} and no whole number")
    return str(value)


def _flag(value: Any) -> str:
    if type(value) is not int:
        raise _MisfitError(f"is {_type_of(value)} and no whole number")
    return "t" if value else "f"


def _real(value: Any) -> str:
    if type(value) is not float:
        raise _MisfitError(f"is {_type_of(value)} and no number")
    return repr(value)


def _moment(value: Any) -> str:
    """Return a time as it stands in the tables. The same object, if it stood so."""
    if type(value) is not str:
        raise _MisfitError(f"is {_type_of(value)} and no time")
    try:
        moment = datetime.fromisoformat(value)
        text = value if _is_in_form(value) else _in_form(moment)
    except (ValueError, OverflowError):
        raise _MisfitError("is no time that can be read") from None
    if not _EARLIEST <= text <= _LATEST:
        raise _MisfitError("is a time outside the years 1 to 9999")
    return text


def _is_in_form(text: str) -> bool:
    """Whether a text that is a time has the form 2026-01-31T12:00:00.000Z."""
    return len(text) == 24 and text[4] == text[7] == "-" and text[10] == "T" and text[19] == "." and text[23] == "Z"  # noqa: PLR2004


def _in_form(moment: datetime) -> str:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


_WRITERS: Final[Mapping[Kind, Callable[[Any], str]]] = {
    Kind.INTEGER: _integer,
    Kind.TEXT: _text,
    Kind.MOMENT: _moment,
    Kind.REAL: _real,
    Kind.FLAG: _flag,
}


def _refuse_what_no_job_may_have(row: Row, fields: list[str]) -> None:
    if fields[_CREATED_AT] is not row[_CREATED_AT]:
        _refuse_another_idempotency_key(row)
    if len(row[_KEY]) + len(row[_QUEUE]) + len(row[_UNIQUE_KEY] or "") > _NEVER_TOO_LONG:
        _refuse_long_keys(row)


def _refuse_another_idempotency_key(row: Row) -> None:
    """A service elsewhere may know the job by a key that is made of the very text of its time."""
    if row[_CLAIMS] > 0 and row[_STATUS] != "COMPLETED" and not _is_in_form(row[_CREATED_AT]):
        raise _MisfitError(
            "is not written as 2026-01-31T12:00:00.000Z, and the job has been tried: its idempotency key would change"
        )


def _refuse_long_keys(row: Row) -> None:
    key = len(_bytes(row[_KEY]))
    longest = key + max(len(_bytes(row[_QUEUE])), len(_bytes(row[_UNIQUE_KEY] or "")))
    if longest > _LONGEST_KEY:
        raise _MisfitError(f"makes, with the rest of its index, more than {_LONGEST_KEY:,} bytes")


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _type_of(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return "a BLOB"
        case str():
            return "a text"
        case float():
            return "a real number"
        case _:
            return "a whole number"


def _shown(key: object) -> str:
    return str(key).encode(errors="backslashreplace").decode()
