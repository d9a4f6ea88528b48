"""`python -m tests.faults --minutes N --seed S`: every fault for long, and one table of what came of it."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import shim
from tests.faults.processes import now
from tests.faults.running import ROOT, campaign, figures_of, percentile
from tests.service.moves import STATUSES_OF_FILL

ALL_KILLS = 1_000_000
MANY_EXAMPLES = 400
OTHERS = (
    *(f"tests/faults/test_{name}.py" for name in ("backup", "blocked", "deployments", "forks", "history")),
    *(f"tests/faults/test_{name}.py" for name in ("late_commits", "protocol", "replaced", "sharing", "stories")),
    "tests/storage/test_state_machine.py",
)
SECONDS_FOR_A_RESTART = 12
"""Of the time in all: 225 restarts in 45 minutes, each of which takes about one."""
ENOUGH = 5_000
"""Kills among which every named point must be."""
JOBS_OF_A_MOVE = sum(STATUSES_OF_FILL.values())
COLUMNS = ("fault", "injected", "jobs", "lost", "doubled", "again p50", "p99", "remarks")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    fault: str
    injected: int
    jobs: int = 0
    lost: int = 0
    doubled: int = 0
    recoveries: tuple[float, ...] = ()
    remarks: str = ""
    well: bool = True

    @property
    def cells(self) -> tuple[str, ...]:
        """The line as it is printed."""
        measured = list(self.recoveries)
        times = [f"{percentile(measured, share):.3f} s" if measured else "" for share in (0.5, 0.99)]
        counts = [f"{number:,}" for number in (self.injected, self.jobs, self.lost, self.doubled)]
        return (("" if self.well else "! ") + self.fault, *counts, *times, self.remarks)


@dataclass(frozen=True)
class Long:
    """The long form of every fault."""

    seconds: float
    seed: int
    folder: Path

    def rows(self) -> list[Row]:
        """Run everything, one after the other; most of the time goes to the kills."""
        began = now()
        library = shim.built(self.folder)
        rows = [
            self._recovery(),
            *self._power_cuts(),
            self._pauses(),
            self._long_pause(),
            self._late_without_fence(),
            self._disk_full(),
            self._storm(),
            self._clocks(library),
            self._io_errors(library),
            self._kills_apart(),
            self._the_others(),
            self._postgres_kills(),
            self._postgres_kills_apart(),
            self._partitions("F14 F7 F16 partitions", self.seconds / 40, lease=6),
            self._partitions("F14 F7 partitions, real lease", 1, lease=60),
            self._partitions("F14 partitions, proxies", self.seconds / 120, "--proxies", lease=6),
            self._late_on_postgres(),
            self._crashes(),
            self._crashes_unsynced(),
            self._moves(),
            self._moves_careless(),
        ]
        return [self._kills(max(self.seconds - (now() - began), 10.0)), *rows]

    def _kills(self, seconds: float) -> Row:
        found = campaign(
            "kills", "--kills", ALL_KILLS, "--seconds", seconds, "--seed", self.seed, timeout=seconds + 300
        )
        points = len(found["points"])
        remarks = (
            f"{found['workers']:,} workers, {found['enqueuers']:,} enqueuers; {found['inside']:,} between first write "
            f"and commit, {found['handlers']:,} of them in handlers; {found['sharing']:,} while ended jobs waited for "
            f"a commit that they share; {found['at_points']:,} at {points} of "
            f"{points + len(found['missed'])} named points; {found['findings']['events']:,} events checked"
        )
        wrongs = found["findings"]["wrongs"] + found["strange"] + _passed_over(found)
        wrongs += [] if found["sharing"] else ["no kill hit a commit that jobs share"]
        return _row("F1 F2 F19 kills", found["kills"], found, wrongs, remarks, found["recoveries"])

    def _kills_apart(self) -> Row:
        found = campaign("kills", "--kills", 200, "--seconds", 60, "--seed", self.seed, "--apart", timeout=200)
        missing = [] if found["findings"]["doubled"] else ["the control found nothing"]
        return _row("control: effects apart", found["kills"], found, missing, "must double")

    def _the_others(self) -> Row:
        """The faults that are single scenes, or random sequences without any process that dies: as tests."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not postgres", *OTHERS]
        environment = os.environ | {"SIDEWORK_EXAMPLES": str(MANY_EXAMPLES)}
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        passed = int((re.findall(r"(\d+) passed", ended.stdout) or ["0"])[-1])
        told = re.findall(r"^F(?:15|16|18)\b.*", ended.stdout, flags=re.MULTILINE)
        wrongs = re.findall(r"^(?:FAILED|ERROR) .*", ended.stdout, flags=re.MULTILINE)[:3]
        remarks = [f"{passed} tests, {MANY_EXAMPLES} random sequences of the API", *told, *wrongs]
        well = ended.returncode == 0
        return Row("F8 F9 F11 F12 F15-F18, S1-S11", passed, remarks="; ".join(remarks), well=well)

    def _postgres_kills(self) -> Row:
        seconds = self.seconds / 6
        found = campaign(
            "postgres_kills", "--kills", ALL_KILLS, "--seconds", seconds, "--seed", self.seed, timeout=seconds + 300
        )
        points = len(found["points"])
        remarks = (
            f"{found['workers']:,} workers, {found['enqueuers']:,} enqueuers; {found['inside']:,} between first write "
            f"and commit; {found['at_points']:,} at {points} of {points + len(found['missed'])} named points; "
            f"{found['findings']['events']:,} events checked"
        )
        wrongs = found["findings"]["wrongs"] + found["strange"]
        return _row("F1 F2 F19 kills, PostgreSQL", found["kills"], found, wrongs, remarks, found["recoveries"])

    def _postgres_kills_apart(self) -> Row:
        found = campaign("postgres_kills", "--kills", 100, "--seconds", 60, "--seed", self.seed, "--apart", timeout=200)
        missing = [] if found["findings"]["doubled"] else ["the control found nothing"]
        return _row("control: effects apart, PostgreSQL", found["kills"], found, missing, "must double")

    def _partitions(self, name: str, rounds: float, *options: str, lease: float) -> Row:
        number = max(int(rounds), 1)
        found = campaign(
            "partitions", "--rounds", number, "--lease", lease, "--seed", self.seed, *options,
            timeout=number * lease * 3 + 300,
        )  # fmt: skip
        remarks = (
            f"{found['kind']}, lease {lease:g} s: {found['cut']} machines cut off, {found['killed']} workers killed, "
            f"{found['paused']} stopped; {found['inside']} between first write and commit; of a queue limited to 3 "
            f"{found['limited_at_most']} at once at most; {found['findings']['events']:,} events checked"
        )
        wrongs = found["findings"]["wrongs"] + found["strange"]
        injected = found["cut"] + found["killed"] + found["paused"]
        return _row(name, injected, found, wrongs, remarks, found["after_kills"] + found["after_cuts"])

    def _late_on_postgres(self) -> Row:
        found = campaign(
            "partitions", "--rounds", 4, "--pauses-only", "--without-fence", "--seed", self.seed, timeout=200
        )
        missing = [] if found["findings"]["doubled"] else ["the control found nothing"]
        remarks = "stopped beyond the lease; must double"
        return _row("control: fence off, PostgreSQL", found["paused"], found, missing, remarks)

    def _crashes(self) -> Row:
        restarts = max(int(self.seconds / SECONDS_FOR_A_RESTART), 10)
        found = campaign(
            "crashes", "--restarts", restarts, "--seed", self.seed, timeout=restarts * SECONDS_FOR_A_RESTART + 300
        )
        remarks = (
            f"{found['inside']:,} between first write and commit of a handler; {found['unanswered']:,} enqueues "
            "repeated; again: from the server's return to the next write of a handler"
        )
        wrongs = found["findings"]["wrongs"]
        return _row("F13 PostgreSQL crashes", found["restarts"], found, wrongs, remarks, found["recoveries"])

    def _crashes_unsynced(self) -> Row:
        found = campaign("crashes", "--restarts", 5, "--seed", self.seed, "--relaxed", timeout=300)
        missing = [] if found["findings"]["lost"] else ["the control found nothing"]
        remarks = "acknowledged before it is synced; must lose"
        return _row("control: PostgreSQL crashes, relaxed", found["restarts"], found, missing, remarks)

    def _moves(self) -> Row:
        seconds = self.seconds / 9
        found = campaign("moves", "--seconds", seconds, "--seed", self.seed, timeout=seconds + 300)
        there, back = found["there"], found["back"]
        states = "; ".join(f"{number} found {state}" for state, number in there["states"].items())
        remarks = (
            f"{there['kills']} of a mover after its {there['statements']} statements, {back['kills']} of who goes back "
            f"after its {back['statements']}; then finished or undone; {states}"
        )
        return _row_of_moves("F1 moves", found, there["wrongs"] + back["wrongs"], remarks)

    def _moves_careless(self) -> Row:
        found = campaign("moves", "--every", 15, "--careless", "--seed", self.seed, timeout=300)
        missing = [] if found["there"]["wrongs"] else ["the control found nothing"]
        return _row_of_moves("control: moves, careless", found, missing, "going back without asking; must double")

    def _recovery(self) -> Row:
        found = campaign("recovery", "--kills", 300, timeout=300)
        wrongs = [] if found["effects"] == found["kills"] else [f"{found['effects']} effects"]
        return Row(
            "F1 recovery, calm",
            found["kills"],
            jobs=found["kills"],
            recoveries=tuple(found["recoveries"]),
            remarks="; ".join(["killed inside a job, one other worker alive", *wrongs]),
            well=not wrongs,
        )

    def _power_cuts(self) -> list[Row]:
        recording = self.folder / "recording.json"
        figures_of(["tests.faults.child", "record"], self.folder, recording, self.seed)
        return [
            self._power_cut(recording, "full", 6000, loses=False),
            self._power_cut(recording, "relaxed", 2000, loses=True),
            self._power_cut(recording, "off", 2000, loses=True),
        ]

    def _power_cut(self, recording: Path, durability: str, images: int, *, loses: bool) -> Row:
        found = figures_of(
            ["tests.faults.power_cut"], recording, "--durability", durability, "--images", images,
            "--seed", self.seed, timeout=600,
        )  # fmt: skip
        lost = found["images_with_losses"]
        remarks = f"{found['transactions']} transactions; damaged {found['damaged']}; at most {found['most_lost']} lost"
        well = bool(lost) if loses else not lost
        damaged = durability != "off" and found["damaged"]
        name = "control: synchronous off" if durability == "off" else f"F3 power cut, {durability}"
        return Row(name, found["images"], lost=lost, remarks=remarks, well=well and not damaged)

    def _pauses(self) -> Row:
        found = campaign("pauses", "--scenes", 150, "--pause", 1.0, "--seed", self.seed, timeout=600)
        remarks = (
            f"{found['pauses']} stopped, stolen from {found['stolen']}; {found['superseded']} superseded, late commits "
            f"accepted {found['late_commits']}, refused {found['refused']}"
        )
        well = not (found["stolen"] or found["late_commits"] or found["wrongs"])
        injected = found["pauses"] + found["superseded"]
        return Row(
            "F7 SIGSTOP", injected, jobs=injected, doubled=found["late_commits"],
            remarks="; ".join([remarks, *found["wrongs"]]), well=well,
        )  # fmt: skip

    def _long_pause(self) -> Row:
        found = campaign("pauses", "--scenes", 1, "--pause", 120, "--seed", self.seed, timeout=300)
        remarks = "; ".join([f"for two minutes, stolen from {found['stolen']}", *found["wrongs"]])
        well = not (found["stolen"] or found["wrongs"])
        return Row("F7 SIGSTOP, long", found["pauses"], jobs=found["pauses"], remarks=remarks, well=well)

    def _late_without_fence(self) -> Row:
        found = campaign("pauses", "--scenes", 20, "--without-fence", "--seed", self.seed, timeout=300)
        late, scenes = found["late_commits"], found["superseded"]
        return Row(
            "control: fence off", scenes, scenes, doubled=late, remarks="must let late commits in", well=late > 0
        )

    def _disk_full(self) -> Row:
        found = campaign("disk_full", "--rounds", 20, timeout=300)
        remarks = f"resumed {percentile(found['resumed_after'], 0.99):.3f} s (p99) after there was room"
        return _row("F5 disk full", found["rounds"], found, found["findings"]["wrongs"], remarks)

    def _storm(self) -> Row:
        found = campaign("storm", "--seconds", 34, timeout=300)
        remarks = (
            f"enqueue p99 {percentile(found['latencies'], 0.99) * 1000:.0f} ms; lock held by another for "
            f"{found['held_for']:.0f} s; errors {len(found['refused'])}; "
            f"log {_megabytes(found['log_without_reader'])}, beside an old snapshot "
            f"{_megabytes(found['log_beside_reader'])}, then {_megabytes(found['log_afterwards'])}"
        )
        wrongs = found["findings"]["wrongs"] + found["refused"]
        return _row("F6 busy storm", found["enqueues"], found, wrongs, remarks)

    def _clocks(self, library: Path) -> Row:
        found = campaign("clocks", "--seconds", 20, preload=library, timeout=200)
        remarks = f"taken for dead {found['taken_for_dead']}, run again {found['run_more_than_once']}"
        return _row("F10 clock jumps", found["jumps"], found, found["findings"]["wrongs"], remarks)

    def _io_errors(self, library: Path) -> Row:
        seconds = self.seconds / 10
        found = campaign(
            "io_errors", "--cases", 0, "--seconds", seconds, "--seed", self.seed, preload=library, timeout=seconds + 200
        )
        remarks = (
            f"{found['cases']} runs at {found['positions']} of {found['calls']} calls; refused {found['refused']}; "
            f"hangs {found['hangs']}"
        )
        wrongs = found["findings"]["wrongs"] + [f"call {call} never failed" for call in found["missed"]]
        return _row("F4 EIO, ENOSPC, short", found["failures"], found, wrongs, remarks)


def _passed_over(found: dict[str, Any]) -> list[str]:
    """Return which named points nobody ended at, where there were kills enough for all of them."""
    return [f"nobody ended at: {', '.join(found['missed'])}"] if found["missed"] and found["kills"] >= ENOUGH else []


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _row(
    fault: str,
    injected: int,
    found: dict[str, Any],
    wrongs: list[str],
    remarks: str,
    recoveries: list[float] | None = None,
) -> Row:
    findings = found["findings"]
    return Row(
        fault,
        injected,
        jobs=findings["jobs"],
        lost=findings["lost"],
        doubled=findings["doubled"],
        recoveries=tuple(recoveries or ()),
        remarks="; ".join([remarks, *wrongs[:3]]),
        well=not wrongs,
    )


def _row_of_moves(fault: str, found: dict[str, Any], wrongs: list[str], remarks: str) -> Row:
    acts = (found["there"], found["back"])
    return Row(
        fault,
        sum(act["kills"] for act in acts),
        jobs=sum(act["kills"] for act in acts) * JOBS_OF_A_MOVE,
        lost=sum(act["lost"] for act in acts),
        doubled=sum(act["doubled"] for act in acts),
        remarks="; ".join([remarks, *wrongs[:3]]),
        well=not wrongs,
    )


def table(rows: list[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [COLUMNS, *(row.cells for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    rule = tuple("-" * width for width in widths)
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in (COLUMNS, rule, *lines[1:])
    )


def main() -> int:
    """Run, print the table; 1 if anything was lost, doubled or not found by its control."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=45.0, help="how long in all, about")
    parser.add_argument("--seed", type=int, default=1, help="what is chosen by chance")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = Long(chosen.minutes * 60, chosen.seed, Path(folder)).rows()
    print(table(rows))
    ill = [row.fault for row in rows if not row.well]
    if ill:
        print(f"\nnot well: {', '.join(ill)}. --seed {chosen.seed} --minutes {chosen.minutes:g} repeats it.")
    return bool(ill)


if __name__ == "__main__":
    sys.exit(main())
