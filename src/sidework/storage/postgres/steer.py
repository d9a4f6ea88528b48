"""Changing jobs from outside: cancel, retry, delete, set priority, pause, prune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidework.model.lifecycle import may_go
from sidework.storage.postgres import rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from psycopg import Connection

    from sidework.model.job import RetentionRule
    from sidework.storage.postgres.session import Session


class Steering:
    """The changes, as steps over a connection with an open transaction. Each returns the ids it changed."""

    def __init__(self, session: Session) -> None:
        """Take how statements are run."""
        self._session = session

    def cancel(self, connection: Connection[Any], ids: Sequence[int], now: datetime) -> list[int]:
        """End what waits, ask for the end of what runs."""
        parameters = {"ids": list(ids), "now": rows.to_moment(now)}
        ended = self._ids(connection, "cancel_waiting", parameters)
        asked = self._ids(connection, "request_cancellation", parameters)
        return sorted(ended + asked)

    def retry(self, connection: Connection[Any], ids: Sequence[int], now: datetime) -> list[int]:
        """Make failed, cancelled and scheduled jobs ready, but those whose unique key is taken."""
        free = self._ids(connection, "retriable", {"ids": list(ids)})
        changed = self._ids(connection, "retry", {"ids": free, "now": rows.to_moment(now)})
        self._session.send(connection, "delete_cancellations", {"ids": changed})
        return changed

    def delete(self, connection: Connection[Any], ids: Sequence[int]) -> list[int]:
        """Delete jobs that do not run, with all that hangs on them."""
        gone = self._ids(connection, "delete", {"ids": list(ids)})
        for statement in ("delete_progress", "delete_log", "delete_cancellations"):
            self._session.send(connection, statement, {"ids": gone})
        return gone

    def set_priority(self, connection: Connection[Any], ids: Sequence[int], priority: int, now: datetime) -> list[int]:
        """Change the priority of what waits."""
        parameters = {"ids": list(ids), "priority": priority, "now": rows.to_moment(now)}
        return self._ids(connection, "set_priority", parameters)

    def set_paused(self, connection: Connection[Any], queue: str, *, paused: bool) -> None:
        """Pause or resume a queue, when no turn is under way."""
        self._session.send(connection, "lock_settings")
        self._session.send(connection, "set_paused", {"queue": queue, "paused": paused})

    def prunable(
        self, connection: Connection[Any], rules: Sequence[RetentionRule], after: int, limit: int, now: datetime
    ) -> tuple[list[int], int | None]:
        """Look at `limit` jobs beyond `after`; return those that may go, and the last id looked at (None: the end)."""
        page = self._session.rows(connection, "prune_candidates", {"after": after, "limit": limit})
        ids = [row[0] for row in page if (ended := rows.ended_job(row)) is not None and may_go(rules, ended, now=now)]
        return ids, page[-1][0] if len(page) == limit else None

    def prune(
        self, connection: Connection[Any], rules: Sequence[RetentionRule], ids: Sequence[int], now: datetime
    ) -> int:
        """Delete what may go of these; look again with the rows locked, for a job may have been retried since."""
        page = self._session.rows(connection, "prune_again", {"ids": list(ids)})
        still = [row[0] for row in page if (ended := rows.ended_job(row)) is not None and may_go(rules, ended, now=now)]
        return len(self.delete(connection, still))

    def _ids(self, connection: Connection[Any], statement: str, parameters: Mapping[str, object]) -> list[int]:
        return sorted(job_id for (job_id,) in self._session.rows(connection, statement, parameters))
