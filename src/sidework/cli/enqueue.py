"""`sidework enqueue`: one job, from a shell."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.grammar import argument, command, flag, option
from sidework.cli.loading import load_service, open_service
from sidework.cli.look import without_secrets
from sidework.cli.output import complain, first_line, in_words, print_json, say
from sidework.errors import WaitTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidework import BackgroundService, Job
    from sidework.model.options import JobKeywords

MOST_WORDS = 3
EXAMPLE = "'{\"name\": 1}'"
"""A payload as it is typed into a shell."""


class _Keywords(TypedDict):
    """What a job may be given beside its payload; None: was not said."""

    priority: int | None
    max_attempts: int | None
    delay: float | None
    queue: str | None
    unique_key: str | None


@command
@argument(
    "words",
    metavar="[APP] KEY [PAYLOAD]",
    nargs=-1,
    required=True,
    help="PAYLOAD is a JSON object, @FILE, or - for standard input. APP may also come from --app.",
)
@option("--priority", metavar="N", type=int, help="Higher runs first.")
@option("--max-attempts", metavar="N", type=int, help="Tries at most.")
@option("--delay", metavar="SECONDS", type=float, help="Not before so long.")
@option("--queue", metavar="QUEUE", help="Into this queue.")
@option("--unique-key", metavar="TEXT", help="If a job holds it already: that job's number.")
@flag("--wait", help="Wait for the end; print the result.")
@option("--timeout", metavar="SECONDS", type=float, help="Wait no longer.")
@options.place
@options.as_json
def enqueue(
    *,
    words: tuple[str, ...],
    wait: bool,
    timeout: float | None,
    database: str | None,
    app: str | None,
    as_json: bool,
    **keywords: Unpack[_Keywords],
) -> None:
    """Enqueue a job and print its number. With --database and no APP the key is not checked."""
    given_app, key, text = split_words(words)
    app = given_app or app
    service = load_service(app) if app else open_service(database=database, app=None)
    job_id = _insert(service, key, read_payload(text), _given(keywords), checked=bool(app))
    if wait:
        _wait(service, job_id, timeout, as_json=as_json)
    elif as_json:
        print_json({"id": job_id})
    else:
        say(str(job_id))


def split_words(words: Sequence[str]) -> tuple[str | None, str, str | None]:
    """Return app, key and payload text. Two words are KEY PAYLOAD if the second looks like a payload, else APP KEY."""
    if len(words) > MOST_WORDS:
        raise UsageError(f"too many words; quote the payload: sidework enqueue APP KEY {EXAMPLE}")
    match words:
        case [key]:
            return None, key, None
        case [key, payload] if payload.startswith(("{", "[", '"', "@")) or payload == "-":
            return None, key, payload
        case [app, key]:
            return app, key, None
        case _:
            return words[0], words[1], words[2]


def read_payload(text: str | None) -> dict[str, object] | None:
    """Return the payload that a word of the command line means. Raises UsageError, with the place of the mistake."""
    if text is None:
        return None
    text = _text_behind(text)
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the payload is not JSON: {_where(error)}; write for instance {EXAMPLE}") from error
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"the payload must be a JSON object such as {EXAMPLE}, not {type(value).__name__}")
    return value


def _where(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return str(error)


def _text_behind(word: str) -> str:
    try:
        if word == "-":
            return sys.stdin.read()
        return Path(word[1:]).read_text(encoding="utf-8") if word.startswith("@") else word
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the payload from {word.removeprefix('@')}: {error}") from error


def _given(keywords: _Keywords) -> JobKeywords:
    found: JobKeywords = {}
    found.update({name: value for name, value in keywords.items() if value is not None})  # type: ignore[typeddict-item]
    return found


def _insert(
    service: BackgroundService, key: str, payload: dict[str, object] | None, keywords: JobKeywords, *, checked: bool
) -> int:
    if checked:
        service.load_imports()
        return service.enqueue(key, payload, **keywords)
    elsewhere = service.declare(key).using(**keywords).new_from(payload)
    return service.enqueue_many([elsewhere])[0]


def _wait(service: BackgroundService, job_id: int, timeout: float | None, *, as_json: bool) -> None:
    tell_if_nobody_works(service)
    try:
        job = service.wait(job_id, timeout)
    except WaitTimeout as error:
        complain(str(error))
        raise Exit(ExitCode.NO) from error
    tell_end(job, as_json=as_json)


def tell_if_nobody_works(service: BackgroundService) -> None:
    """Say, beside the answer, that waiting has no end as long as no worker is started."""
    if not any(worker.alive for worker in service.jobs.workers()):
        complain("sidework: no worker is alive; the job waits until one is started: sidework run APP")


def tell_end(job: Job, *, as_json: bool) -> None:
    """Print how a job ended, and leave with an exit code that says it."""
    from sidework import JobStatus

    if as_json:
        print_json(without_secrets(job))
    elif job.status is JobStatus.COMPLETED:
        say(in_words(without_secrets(job).result))
    else:
        complain(f"job {job.id} {job.status.lower()}: {first_line(job.last_error) or 'no reason was kept'}")
    leave_with(job)


def leave_with(job: Job) -> None:
    """Leave with an exit code that says how a job ended."""
    from sidework import JobStatus

    raise Exit(ExitCode.DONE if job.status is JobStatus.COMPLETED else ExitCode.NO)
