"""`sidework doctor`: is the system well?"""

from __future__ import annotations

import typer

from sidework.cli.failures import ExitCode
from sidework.cli.loading import open_jobs
from sidework.cli.options import App, AsJson, Database
from sidework.cli.output import print_json, print_table, say


def doctor(database: Database = None, app: App = None, as_json: AsJson = False) -> None:
    """Look whether database, workers and jobs are well, and what to do. Exit code 1: something is ill."""
    from sidework.model.health import Level

    findings = open_jobs(database, app).examine()
    if as_json:
        for finding in findings:
            print_json(finding)
    else:
        print_table(["", "what", "found"], ([finding.level, finding.subject, finding.text] for finding in findings))
        for finding in findings:
            if finding.remedy and finding.level is not Level.WELL:
                say(f"{finding.subject}: {finding.remedy}")
    if any(finding.level is Level.ILL for finding in findings):
        raise typer.Exit(ExitCode.NO)
