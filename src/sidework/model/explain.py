"""Why a job is not running, from the facts, in plain sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from sidework.model.job import Job, JobFacts, JobStatus, WorkerInfo

if TYPE_CHECKING:
    from datetime import datetime, timedelta


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, and what can be done about it (None: nothing needs to be done)."""

    code: str
    text: str
    remedy: str | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a job runs, or will without anybody's help; and all that has a part in it, the weightiest first."""

    runs: bool
    reasons: tuple[Reason, ...]


_HINDRANCES = frozenset({"no_worker", "unknown_key", "queue_not_served", "queue_paused", "worker_dead_no_other"})
_ENDS = frozenset({"completed", "failed", "cancelled"})

Reasons: TypeAlias = Iterator[Reason]


def explain(facts: JobFacts, now: datetime) -> Explanation:
    """Return every cause that keeps this job from running now, or says where it runs or how it ended."""
    reasons = tuple(_reasons(facts, now))
    return Explanation(runs=not any(reason.code in _HINDRANCES | _ENDS for reason in reasons), reasons=reasons)


def _reasons(facts: JobFacts, now: datetime) -> Reasons:
    match facts.job.status:
        case JobStatus.COMPLETED | JobStatus.FAILED | JobStatus.CANCELLED:
            yield _ended(facts.job)
        case JobStatus.RUNNING:
            yield from _while_running(facts, now)
        case JobStatus.PENDING | JobStatus.SCHEDULED:
            yield from _while_waiting(facts, now)


def _ended(job: Job) -> Reason:
    when = _moment(job.finished_at)
    first_line = (job.last_error or "no reason was kept").partition("\n")[0]
    match job.status:
        case JobStatus.COMPLETED:
            return Reason(code="completed", text=f"It was completed{when}, at attempt {job.attempts}.")
        case JobStatus.CANCELLED:
            return Reason(
                code="cancelled", text=f"It was cancelled{when}.", remedy=f"run it after all: sidework retry {job.id}"
            )
        case _:
            return Reason(
                code="failed",
                text=f"It failed{when} after {_count(job.attempts, 'attempt')}: {first_line}",
                remedy=f"when the cause is gone: sidework retry {job.id}",
            )


def _while_running(facts: JobFacts, now: datetime) -> Reasons:
    job = facts.job
    worker = next((w for w in facts.workers if w.id == job.worker), None)
    if worker is not None and worker.alive:
        since = "" if job.last_attempt_at is None else f" for {_span(now - job.last_attempt_at)}"
        yield Reason(code="running", text=f"It has been running{since} on {_name(worker)}.")
    else:
        yield from _after_death(facts, worker)
    if facts.cancel_requested:
        yield Reason(code="cancel_requested", text="Its end was asked for; its handler has not ended yet.")


def _after_death(facts: JobFacts, worker: WorkerInfo | None) -> Reasons:
    dead = "its worker" if worker is None else f"its worker, {_name(worker)},"
    if any(other.alive for other in facts.workers):
        yield Reason(
            code="worker_dead", text=f"It was running when {dead} died; a live worker will run it again shortly."
        )
        return
    yield Reason(
        code="worker_dead_no_other",
        text=f"It was running when {dead} died, and no worker is alive to run it again.",
        remedy="start a worker: sidework run APP",
    )


def _while_waiting(facts: JobFacts, now: datetime) -> Reasons:
    if facts.cancel_requested:
        yield Reason(code="cancel_requested", text="Its end was asked for; it will be cancelled at the next turn.")
    reasons = [*_for_want_of_a_worker(facts), *_held_by_its_queue(facts), *_not_due(facts.job, now), *_in_line(facts)]
    yield from reasons
    if not reasons:
        yield Reason(code="ready", text="It is ready; a worker will take it at its next turn.")


def _for_want_of_a_worker(facts: JobFacts) -> Reasons:
    job = facts.job
    alive = [worker for worker in facts.workers if worker.alive]
    knowing = [worker for worker in alive if job.key in worker.keys]
    if not alive:
        yield Reason(code="no_worker", text="No worker is alive.", remedy="start a worker: sidework run APP")
    elif not knowing:
        yield _unknown_key(job.key, alive)
    elif not any(worker.queues is None or job.queue in worker.queues for worker in knowing):
        yield _queue_not_served(job, knowing)


def _unknown_key(key: str, alive: list[WorkerInfo]) -> Reason:
    known = sorted(frozenset[str]().union(*(worker.keys for worker in alive)))
    near = difflib.get_close_matches(key, known)
    hint = f" The nearest that they know: {', '.join(map(repr, near))}." if near else ""
    return Reason(
        code="unknown_key",
        text=f"No live worker has a handler for {key!r}.{hint}",
        remedy=f"start a worker whose program registers {key!r}, or delete the job if its key is a mistake",
    )


def _queue_not_served(job: Job, knowing: list[WorkerInfo]) -> Reason:
    served = sorted({queue for worker in knowing for queue in worker.queues or ()})
    return Reason(
        code="queue_not_served",
        text=f"No live worker that knows {job.key!r} serves the queue {job.queue!r}; they serve {', '.join(served)}.",
        remedy=f"start a worker for it: sidework run APP --queues {job.queue}",
    )


def _held_by_its_queue(facts: JobFacts) -> Reasons:
    queue = facts.queue
    if queue.paused:
        yield Reason(
            code="queue_paused",
            text=f"The queue {queue.name!r} is paused.",
            remedy=f"resume it: sidework resume {queue.name}",
        )
    if queue.limit is not None and queue.running >= queue.limit:
        text = f"The queue {queue.name!r} may run {_count(queue.limit, 'job')} at once; {queue.running} are running."
        yield Reason(code="queue_limit", text=text)


def _not_due(job: Job, now: datetime) -> Reasons:
    if job.status is not JobStatus.SCHEDULED or job.run_at is None:
        return
    after = f" Attempt {job.attempts} of {job.max_attempts} failed." if job.attempts and job.last_error else ""
    if job.run_at > now:
        text = f"It is due in {_span(job.run_at - now)}, at {_text_of(job.run_at)}.{after}"
        yield Reason(code="not_due", text=text, remedy=f"run it now: sidework retry {job.id}")
    else:
        yield Reason(code="due", text=f"It has been due since {_text_of(job.run_at)}.{after}")


def _in_line(facts: JobFacts) -> Reasons:
    if facts.job.crashes:
        yield Reason(
            code="runs_alone",
            text=f"A worker died {_times(facts.job.crashes)} while it ran, so it waits for a worker with nothing else "
            "to do, and runs alone.",
        )
    if facts.ahead and facts.job.status is JobStatus.PENDING:
        come = "comes" if facts.ahead == 1 else "come"
        text = f"{_count(facts.ahead, 'job')} of the queue {facts.queue.name!r} {come} before it."
        yield Reason(code="behind_others", text=text)


def _name(worker: WorkerInfo) -> str:
    return f"worker {worker.id} (process {worker.pid} on {worker.host})"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _moment(at: datetime | None) -> str:
    return "" if at is None else f" at {_text_of(at)}"


def _text_of(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _span(length: timedelta) -> str:
    """Write a length of time with its two largest units: "2 h 5 min"."""
    left = max(0, int(length.total_seconds()))
    parts = []
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, seconds)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2]) or "less than a second"
