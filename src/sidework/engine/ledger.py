"""`Ledger`: what became of the outcomes that were to be written, and what is told about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidework.engine.events import ClaimLost, JobEnded, OutcomeRefused
from sidework.model.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidework.engine.attempt import Attempt
    from sidework.engine.bench import Bench
    from sidework.storage.contract import Turn


class Ledger:
    """Goes through the answers of the database, outcome by outcome."""

    def __init__(self, bench: Bench) -> None:
        """bench: where an outcome goes back to that is to be written once more."""
        self._bench = bench
        self.given_back = 0
        """How many jobs were begun and given back because the worker stopped."""

    def take(self, ended: Sequence[Attempt], turn: Turn) -> None:
        """Take the answer to the outcomes of these attempts."""
        for attempt in ended:
            claim = attempt.job.claim
            if claim in turn.refused:
                self._refused(attempt)
            elif claim in turn.failed:
                self._try_a_plain_failure(attempt, turn.failed[claim])
            else:
                self.written(attempt)

    def written(self, attempt: Attempt) -> None:
        """Note that the outcome of an attempt is durable."""
        outcome = attempt.outcome
        if outcome is None:
            return
        if self._bench.left:
            self._bench.left.discard(attempt.job.claim)
        if outcome.status is JobStatus.PENDING and attempt.began and not attempt.in_vain:
            self.given_back += 1
        tell = attempt.announce if outcome.status is JobStatus.FAILED else attempt.announce_routine
        tell(JobEnded, status=outcome.status, seconds=attempt.seconds)

    def _refused(self, attempt: Attempt) -> None:
        self._bench.left.discard(attempt.job.claim)
        if attempt.completed_elsewhere:
            attempt.announce_routine(JobEnded, status=JobStatus.COMPLETED, seconds=attempt.seconds)
        else:
            attempt.announce(ClaimLost)

    def _try_a_plain_failure(self, attempt: Attempt, words: str) -> None:
        """Let FAILED be written instead of what the database refuses, so that the job does not stay RUNNING."""
        claim = attempt.job.claim
        final = claim in self._bench.left
        attempt.announce(OutcomeRefused, reason=words, final=final)
        if not final:
            self._bench.left.add(claim)
            attempt.outcome = attempt.refused(f"the database refused to keep how this job ended: {words}")
            self._bench.put_back([attempt])
