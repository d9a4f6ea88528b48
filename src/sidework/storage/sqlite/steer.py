"""Changing jobs from outside: cancel, retry, delete, set priority, pause, prune."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sidework.model.lifecycle import may_go
from sidework.storage.sqlite import rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sidework.model.job import RetentionRule


_LAST_ID: Final = 2**63 - 1


class Steering:
    """The changes, as steps over a connection with an open transaction. Each returns the ids it changed."""

    def __init__(self, sql: Mapping[str, str]) -> None:
        """Take the statements of queries.sql."""
        self._sql = sql

    def cancel(self, connection: sqlite3.Connection, ids: Sequence[int], now: str) -> list[int]:
        """End what waits, ask for the end of what runs."""
        parameters = {"ids": rows.to_json(ids), "now": now}
        ended = self._ids(connection, "cancel_waiting", parameters)
        asked = self._ids(connection, "request_cancellation", parameters)
        return sorted(ended + asked)

    def retry(self, connection: sqlite3.Connection, ids: Sequence[int], now: str) -> list[int]:
        """Make failed, cancelled and scheduled jobs ready."""
        changed = self._ids(connection, "retry", {"ids": rows.to_json(ids), "now": now})
        connection.execute(self._sql["delete_cancellations"], {"ids": rows.to_json(changed)})
        return changed

    def delete(self, connection: sqlite3.Connection, ids: Sequence[int]) -> list[int]:
        """Delete jobs that do not run, with all that hangs on them."""
        gone = self._ids(connection, "delete", {"ids": rows.to_json(ids)})
        for statement in ("delete_progress", "delete_log", "delete_cancellations"):
            connection.execute(self._sql[statement], {"ids": rows.to_json(gone)})
        return gone

    def set_priority(self, connection: sqlite3.Connection, ids: Sequence[int], priority: int, now: str) -> list[int]:
        """Change the priority of what waits."""
        return self._ids(connection, "set_priority", {"ids": rows.to_json(ids), "priority": priority, "now": now})

    def set_paused(self, connection: sqlite3.Connection, queue: str, *, paused: bool) -> None:
        """Pause or resume a queue."""
        connection.execute(self._sql["set_paused"], {"queue": queue, "paused": int(paused)})

    def prunable(
        self, connection: sqlite3.Connection, rules: Sequence[RetentionRule], after: int, limit: int, now: datetime
    ) -> tuple[list[int], int | None]:
        """Look at `limit` jobs beyond `after`; return those that may go, and the last id looked at (None: the end)."""
        last = connection.execute(self._sql["prune_page"], {"after": after, "limit": limit}).fetchone()
        go_on = None if last is None else last[0]
        page = {
            "after": after,
            "last": _LAST_ID if go_on is None else go_on,
            "before": rows.to_text(now - min((rule.keep for rule in rules), default=timedelta(0))),
            "now": rows.to_text(now),
        }
        found = connection.execute(self._sql["prune_candidates"], page).fetchall()
        return [row[0] for row in found if may_go(rules, rows.ended_job(row), now=now)], go_on

    def prune(
        self, connection: sqlite3.Connection, rules: Sequence[RetentionRule], after: int, limit: int, now: datetime
    ) -> int:
        """Delete what may go on one page; look again under the write lock, for a job may have been retried since."""
        ids, _go_on = self.prunable(connection, rules, after, limit, now)
        return len(self.delete(connection, ids))

    def _ids(self, connection: sqlite3.Connection, statement: str, parameters: Mapping[str, object]) -> list[int]:
        return sorted(job_id for (job_id,) in connection.execute(self._sql[statement], parameters))
