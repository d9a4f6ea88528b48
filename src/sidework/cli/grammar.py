"""How the commands of this command line are made of options and arguments, and how `--help` shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

LONGEST_SUMMARY = 500
"""More than any first sentence has: none is cut, click's formatter breaks it into lines."""

Body = Callable[..., None]
"""The function that a command calls, with what was typed as keywords."""
Description = Callable[[Body], Body]
"""What describes a part of a command, written above its body."""


class Argument(click.Argument):
    """A word without a dash, explained in `--help` as options are; click itself can do so from 8.5 on."""

    def __init__(self, names: Sequence[str], *, metavar: str, meaning: str, **more: Any) -> None:
        """Take how it is written in a usage line, and what it means."""
        super().__init__(names, metavar=metavar, **more)
        self.written = metavar
        self.meaning = meaning if self.envvar is None else f"{meaning}  [env var: {self.envvar}]"


class Command(click.Command):
    """A command that explains its arguments above its options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then the options."""
        arguments = [(each.written, each.meaning) for each in self.params if isinstance(each, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(ctx, formatter)


class Group(click.Group):
    """All commands, in the order and under the headings that they were given in."""

    def __init__(self, *, headings: Mapping[str, Sequence[click.Command]], **more: Any) -> None:
        """Take the commands under each heading."""
        super().__init__(**more)
        self._headings = headings
        for commands in headings.values():
            for each in commands:
                self.add_command(each)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click asks for the context
        """Return their names as they were given, not in alphabetical order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the same
        """Write each command with the first sentence of its explanation."""
        longest = max(map(len, self.commands))
        for heading, commands in self._headings.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [((each.name or "").ljust(longest), each.get_short_help_str(LONGEST_SUMMARY)) for each in commands]
                )


def command(body: Body) -> Command:
    """Make a command of a function and what is described above it; name and explanation are the function's own."""
    return click.command(cls=Command, name=body.__name__.replace("_", "-"))(body)


def option(*names: str, help: str, **more: Any) -> Description:  # noqa: A002 - click's word
    """Describe an option; its default and its twin in the environment are shown in `--help`."""
    return click.option(*names, help=help, show_envvar=True, show_default=more.get("default") is not None, **more)


def flag(*names: str, help: str, **more: Any) -> Description:  # noqa: A002 - the same
    """Describe an option that is there or is not."""
    return click.option(*names, help=help, show_envvar=True, is_flag=True, **more)


def argument(name: str, *, metavar: str, help: str, **more: Any) -> Description:  # noqa: A002 - the same
    """Describe a word without a dash."""
    return click.argument(name, cls=Argument, metavar=metavar, meaning=help, **more)


def all_of(*parts: Description) -> Description:
    """Put several descriptions together, in the order in which `--help` shows them."""

    def decorate(body: Body) -> Body:
        for part in reversed(parts):
            body = part(body)
        return body

    return decorate
