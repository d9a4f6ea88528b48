"""Words of a command line that become values."""

from __future__ import annotations

from datetime import timedelta

import click
import pytest

from sidework.cli import options
from sidework.cli.enqueue import read_payload, split_words
from sidework.cli.failures import UsageError
from sidework.cli.grammar import command
from sidework.cli.options import parse_age


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800), (" 2w ", 1_209_600)]
)
def test_an_age_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_age(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5m", "1y", "h", "1h30m"])
def test_what_is_no_age_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="30m"):
        parse_age(text)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["greet"], (None, "greet", None)),
        (["greet", "{}"], (None, "greet", "{}")),
        (["greet", "-"], (None, "greet", "-")),
        (["greet", "@payload.json"], (None, "greet", "@payload.json")),
        (["shop:service", "greet"], ("shop:service", "greet", None)),
        (["shop:service", "greet", "nonsense"], ("shop:service", "greet", "nonsense")),
    ],
)
def test_words_are_app_key_and_payload(words: list[str], meant: tuple[str | None, str, str | None]) -> None:
    assert split_words(words) == meant


def test_a_payload_that_was_not_quoted_is_noticed() -> None:
    with pytest.raises(UsageError, match="quote"):
        split_words(["shop:service", "greet", "{name:", "1}"])


def test_a_payload_that_is_no_object_is_refused() -> None:
    with pytest.raises(UsageError, match="object"):
        read_payload("[1, 2]")


def test_no_payload_is_none() -> None:
    assert read_payload(None) is None
    assert read_payload("null") is None


def test_an_app_has_two_names_of_which_the_flag_wins() -> None:
    given: list[str | None] = []

    @command
    @options.named_app
    def note(*, app: str | None) -> None:
        given.append(app)

    for words in (["a"], ["--app", "b"], ["a", "-A", "b"], []):
        note.main(words, standalone_mode=False)
    assert given == ["a", "b", "b", None]
