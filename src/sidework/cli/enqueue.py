"""`sidework enqueue`: one job, from a shell."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidework.cli.failures import ExitCode, UsageError
from sidework.cli.loading import load_service, open_service
from sidework.cli.look import without_secrets
from sidework.cli.options import App, AsJson, Database
from sidework.cli.output import complain, first_line, in_words, print_json, say
from sidework.errors import WaitTimeout

if TYPE_CHECKING:
    from sidework import BackgroundService, Job
    from sidework.model.options import JobKeywords

MOST_WORDS = 3


def enqueue(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[APP] KEY [PAYLOAD]",
            help="PAYLOAD is a JSON object, @FILE, or - for standard input. APP may also come from --app.",
        ),
    ],
    priority: Annotated[int | None, typer.Option("--priority", metavar="N", help="Higher runs first.")] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", metavar="N", help="Tries at most.")] = None,
    delay: Annotated[float | None, typer.Option("--delay", metavar="SECONDS", help="Not before so long.")] = None,
    queue: Annotated[str | None, typer.Option("--queue", metavar="QUEUE", help="Into this queue.")] = None,
    unique_key: Annotated[
        str | None, typer.Option("--unique-key", metavar="TEXT", help="If a job holds it already: that job's number.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end; print the result.")] = False,
    timeout: Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="Wait no longer.")] = None,
    database: Database = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue a job and print its number. With --database and no APP the key is not checked."""
    given_app, key, text = split_words(words)
    service = load_service(given_app or app) if given_app or app else open_service(database, None)
    keywords = _given(priority=priority, max_attempts=max_attempts, delay=delay, queue=queue, unique_key=unique_key)
    job_id = _insert(service, key, read_payload(text), keywords, checked=bool(given_app or app))
    if wait:
        _wait(service, job_id, timeout, as_json=as_json)
    elif as_json:
        print_json({"id": job_id})
    else:
        say(str(job_id))


def split_words(words: list[str]) -> tuple[str | None, str, str | None]:
    """Return app, key and payload text. Two words are KEY PAYLOAD if the second looks like a payload, else APP KEY."""
    if len(words) > MOST_WORDS:
        raise UsageError("too many words; quote the payload: sidework enqueue APP KEY '{\"name\": 1}'")
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
        raise UsageError(f"the payload is not JSON: {_where(error)}") from error
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"the payload must be a JSON object such as '{{\"name\": 1}}', not {type(value).__name__}")
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


def _given(**options: object) -> JobKeywords:
    found: JobKeywords = {}
    found.update({name: value for name, value in options.items() if value is not None})  # type: ignore[typeddict-item]
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
    try:
        job = service.wait(job_id, timeout)
    except WaitTimeout as error:
        complain(str(error))
        raise typer.Exit(ExitCode.NO) from error
    tell_end(job, as_json=as_json)


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

    raise typer.Exit(ExitCode.DONE if job.status is JobStatus.COMPLETED else ExitCode.NO)
