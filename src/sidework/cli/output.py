"""What the terminal is shown: plain text, tables and JSON, without control characters and without secrets."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

# Escape sequences, other control characters, and the marks that turn the direction of writing around.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET_WORDS = (
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "apikey",
    "credential",
    "cookie",
    "privatekey",
)
HIDDEN = "[hidden]"
WIDTH_OF_A_PIPE = 240


def clean(text: str) -> str:
    """Return the text without characters that would steer the terminal; line ends and tabs stay."""
    return _UNPRINTABLE.sub("", text)


def hide_secrets(value: object) -> object:
    """Return the JSON value with everything replaced that stands under a name such as `password` or `api_key`."""
    if isinstance(value, Mapping):
        return {name: HIDDEN if _names_a_secret(name) else hide_secrets(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [hide_secrets(inner) for inner in value]
    return value


def _names_a_secret(name: object) -> bool:
    letters = re.sub(r"[^a-z]", "", str(name).lower())
    return any(word in letters for word in _SECRET_WORDS)


def say(text: str = "") -> None:
    """Print a line for people."""
    print(clean(text))


def complain(text: str) -> None:
    """Print a line about what went wrong, where it does not mix with the answer."""
    print(clean(text), file=sys.stderr)


def print_json(value: object) -> None:
    """Print one object on one line; dates as ISO 8601, everything beyond ASCII escaped."""
    print(json.dumps(msgspec.to_builtins(value)))


def print_answer(answer: Mapping[str, object], *, as_json: bool) -> None:
    """Print one object: as JSON, or a line for each of its values that is not None."""
    if as_json:
        print_json(answer)
        return
    width = max(len(name) for name in answer) + 2
    for name, value in answer.items():
        if value is not None:
            say(f"{name.replace('_', ' '):{width}}{indented(in_words(value), width)}")


def indented(text: str, width: int) -> str:
    """Return a text of several lines with all but the first moved in."""
    return text.replace("\n", "\n" + " " * width)


def print_list(
    rows: Sequence[msgspec.Struct], columns: Mapping[str, Callable[[Any], object]], *, as_json: bool, nothing: str
) -> None:
    """Print a list: JSON Lines of the whole data, or a table of the columns named; `nothing` where it is empty."""
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        print_rows(rows, columns)
    else:
        say(nothing)


def print_rows(rows: Sequence[object], columns: Mapping[str, Callable[[Any], object]]) -> None:
    """Print a table with a line for each row and a column for each function of a row; columns of "" are left out."""
    table = {title: [column(row) for row in rows] for title, column in columns.items()}
    filled = {title: values for title, values in table.items() if any(value != "" for value in values)}
    print_table(filled, zip(*filled.values(), strict=True))


def print_table(titles: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table for people. Where the terminal is too narrow for it, the last column is folded."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    *others, last = titles
    for title in others:
        table.add_column(title, no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in rows:
        table.add_row(*(Text(clean(in_words(value))) for value in row))
    console().print(table)


def console() -> Console:
    """Return a terminal that knows colours and bars; a pipe gets neither, and no line of it is cut."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_PIPE, highlight=False, markup=False, emoji=False)


def in_words(value: object) -> str:
    """Return a value as a person reads it."""
    match value:
        case None:
            return "-"
        case True | False:
            return "yes" if value else "no"
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
        case timedelta():
            return duration(value)
        case float():
            return f"{value:,.6g}"
        case Mapping() | list():
            return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        case tuple() | frozenset():
            return ", ".join(sorted(map(str, value)))
        case _:
            return str(value)


def duration(span: timedelta) -> str:
    """Return a length of time in its largest sensible unit, such as `5 min`."""
    seconds = span.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def first_line(text: str | None) -> str | None:
    """Return the line of an error text that says what happened."""
    return text.splitlines()[0] if text else None
