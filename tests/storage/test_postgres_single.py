"""How the answer to a single enqueue is taken in."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from psycopg.waiting import Ready, Wait

from sidework.storage.postgres.single import _answer

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult


class Server:
    """A connection whose answer comes in two pieces: the result first, that this was all of it later."""

    def __init__(self) -> None:
        self.pieces: list[str | None] = []

    def flush(self) -> int:
        return 0

    def is_busy(self) -> int:
        return not self.pieces

    def consume_input(self) -> None:
        """Take in what the test has put there."""

    def get_result(self) -> PGresult | None:
        assert self.pieces, "it would wait, for as long as it takes, and no thread of this process could run"
        return cast("PGresult | None", self.pieces.pop(0))


def test_an_answer_in_two_pieces_is_waited_for_twice() -> None:
    server = Server()
    waiting = _answer(cast("PGconn", server))
    assert next(waiting) == Wait.R
    server.pieces = ["the row"]
    assert waiting.send(Ready.R) == Wait.R
    server.pieces = [None]
    with pytest.raises(StopIteration) as end:
        waiting.send(Ready.R)
    assert end.value.value == "the row"
