"""What a statement of a handler would do to the transaction that belongs to the service, by its first words.

Only the words that begin or end a transaction matter; whether a statement writes is the server's to say. Several
statements in one text are refused by the server itself, because they are always sent by the extended protocol.
"""

from __future__ import annotations

import re
from typing import Final

_SKIPPED: Final = re.compile(rb"(?:\s+|--[^\n]*(?:\n|$))+")
_WORD: Final = re.compile(rb"[A-Za-z_]+")
_NESTED: Final = re.compile(rb"/\*|\*/")

_ENDING: Final = frozenset({b"BEGIN", b"START", b"COMMIT", b"END", b"ABORT"})


def is_transaction_control(statement: bytes) -> bool:
    """Whether a statement begins, ends or prepares a transaction. SAVEPOINT, RELEASE and ROLLBACK TO do not."""
    words = _words(statement, 2)
    if not words:
        return False
    if words[0] == b"ROLLBACK":
        return not re.match(rb"ROLLBACK(\s+(WORK|TRANSACTION))?\s+TO\b", b" ".join(_words(statement, 3)))
    return words[0] in _ENDING or words[:2] == [b"PREPARE", b"TRANSACTION"]


def _words(statement: bytes, most: int) -> list[bytes]:
    """Return the first words in capitals, comments left out."""
    found: list[bytes] = []
    at = 0
    while len(found) < most:
        at = _after_comments(statement, at)
        word = _WORD.match(statement, at)
        if word is None:
            break
        found.append(word.group().upper())
        at = word.end()
    return found


def _after_comments(statement: bytes, at: int) -> int:
    while True:
        if skipped := _SKIPPED.match(statement, at):
            at = skipped.end()
        elif statement[at : at + 1] == b";":  # an empty statement
            at += 1
        elif statement[at : at + 2] == b"/*":
            at = _after_block(statement, at)
        else:
            return at


def _after_block(statement: bytes, at: int) -> int:
    depth = 0
    for mark in _NESTED.finditer(statement, at):
        depth += 1 if mark.group() == b"/*" else -1
        if depth == 0:
            return mark.end()
    return len(statement)
