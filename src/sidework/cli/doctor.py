"""`sidework doctor`: is the system well?"""

from __future__ import annotations

from typing import Unpack

from click.exceptions import Exit

from sidework.cli import options
from sidework.cli.failures import ExitCode
from sidework.cli.grammar import command
from sidework.cli.loading import open_jobs
from sidework.cli.options import Place
from sidework.cli.output import print_json, print_table, say


@command
@options.place
@options.as_json
def doctor(*, as_json: bool, **where: Unpack[Place]) -> None:
    """Look whether database, workers and jobs are well, and what to do. Exit code 1: something is ill."""
    from sidework.model.health import Level

    findings = open_jobs(**where).examine()
    if as_json:
        for finding in findings:
            print_json(finding)
    else:
        print_table(["", "what", "found"], ([finding.level, finding.subject, finding.text] for finding in findings))
        for finding in findings:
            if finding.remedy and finding.level is not Level.WELL:
                say(f"{finding.subject}: {finding.remedy}")
    if any(finding.level is Level.ILL for finding in findings):
        raise Exit(ExitCode.NO)
