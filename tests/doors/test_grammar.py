"""How commands are made, and what they say of themselves."""

from __future__ import annotations

import re

import click
import pytest
from tests.doors.shell import Shell

from sidework.cli.grammar import Group, all_of, argument, command, flag, option
from sidework.cli.main import COMMANDS, build


@command
@argument("place", metavar="[PLACE]", envvar="PAINT_PLACE", required=False, help="What is painted.")
@all_of(
    option("--colour", metavar="NAME", default="blue", help="Which colour."),
    option("--coats", metavar="N", type=int, help="How often."),
)
@flag("--dry", help="Without paint.")
def paint_it(*, place: str | None, colour: str, coats: int | None, dry: bool) -> None:
    """Paint a place. It takes a day."""
    click.echo(f"{place} {colour} {coats} {dry}")


@pytest.fixture
def group() -> Group:
    return Group(headings={"Walls": (paint_it,)}, context_settings={"auto_envvar_prefix": "PAINT"})


def printed(group: Group, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    group.main(list(words), prog_name="paint", standalone_mode=False)
    return capsys.readouterr().out


def test_what_is_not_said_is_none_false_or_the_default(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(group, "paint-it", capsys=capsys) == "None blue None False\n"


def test_what_is_said_reaches_the_body(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(group, "paint-it", "door", "--colour", "red", "--coats", "2", "--dry", capsys=capsys)
    assert said == "door red 2 True\n"


def test_the_environment_says_it_too(
    group: Group, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PLACE": "roof", "PAINT_IT_COLOUR": "grey", "PAINT_IT_COATS": "3", "PAINT_IT_DRY": "1"}.items():
        monkeypatch.setenv(f"PAINT_{name}", value)
    assert printed(group, "paint-it", capsys=capsys) == "roof grey 3 True\n"


def test_help_explains_arguments_and_options_in_their_order(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(group, "paint-it", "--help", capsys=capsys)
    assert said.startswith(
        "Usage: paint paint-it [OPTIONS] [PLACE]\n\n  Paint a place. It takes a day.\n\nArguments:\n"
    )
    rows = re.findall(r"^  (\S.*?)  +(\S.*)$", said.replace("\n" + " " * 17, " "), flags=re.MULTILINE)
    assert rows[:4] == [
        ("[PLACE]", "What is painted.  [env var: PAINT_PLACE]"),
        ("--colour NAME", "Which colour.  [env var: PAINT_PAINT_IT_COLOUR; default: blue]"),
        ("--coats N", "How often.  [env var: PAINT_PAINT_IT_COATS]"),
        ("--dry", "Without paint.  [env var: PAINT_PAINT_IT_DRY]"),
    ]


def test_help_of_the_group_has_a_heading_and_one_sentence(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(group, "--help", capsys=capsys).endswith("\nWalls:\n  paint-it  Paint a place.\n")


def test_every_command_has_its_place_in_the_help(shell: Shell) -> None:
    said = shell.out("--help")
    for heading, commands in COMMANDS.items():
        section = said.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines() if line[2] != " "] == [each.name for each in commands]


@pytest.mark.parametrize("name", list(build().commands))
def test_every_command_and_each_of_its_words_is_explained(shell: Shell, name: str) -> None:
    taught = build().commands[name]
    assert taught.help
    for each in taught.params:
        assert getattr(each, "meaning", None) or getattr(each, "help", None), each.name


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_shell_is_given_a_script_that_completes(shell: Shell, name: str) -> None:
    assert "_SIDEWORK_COMPLETE" in shell.out(_SIDEWORK_COMPLETE=f"{name}_source")


def test_commands_and_options_are_completed(shell: Shell) -> None:
    def completed(words: str, at: int) -> list[str]:
        answer = shell.out(_SIDEWORK_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(at))
        return [line.partition(",")[2] for line in answer.splitlines()]

    assert completed("sidework re", 1) == ["retry", "resume"]
    assert completed("sidework jobs --st", 2) == ["--status"]
