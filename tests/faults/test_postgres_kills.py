"""F1, F2 on PostgreSQL: `kill -9` anywhere loses nothing and does nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.running import campaign, campaigns, percentile

if TYPE_CHECKING:
    from collections.abc import Callable


def test_kills_on_postgres_lose_nothing_and_do_nothing_twice(figures: Callable[[str], None]):
    found = campaign("postgres_kills", "--kills", 80, "--seconds", 20, "--seed", 21)
    recoveries = found["recoveries"]
    figures(
        f"F1 F2 kills, PostgreSQL: {found['kills']} ({found['workers']} workers, {found['enqueuers']} enqueuers; "
        f"{found['inside']} between first write and commit, {found['handlers']} of them in handlers; "
        f"{len(found['points'])} named points), {found['findings']['jobs']} jobs, lost {found['findings']['lost']}, "
        f"doubled {found['findings']['doubled']}, run again after {percentile(recoveries, 0.5):.3f} s (p50) "
        f"{percentile(recoveries, 0.99):.3f} s (p99)"
    )
    assert found["findings"]["wrongs"] == [], f"--seed {found['seed']} repeats it"
    assert found["strange"] == []
    assert found["workers"] >= 10
    assert found["enqueuers"] >= 5
    assert found["inside"] * 2 >= found["kills"]
    assert found["handlers"] * 2 >= found["workers"]
    assert len(found["points"]) >= 5


def test_on_postgres_too_effects_apart_from_their_jobs_are_doubled_by_the_same_kills():
    """The control."""
    runs = campaigns("postgres_kills", "--kills", 40, "--seconds", 15, "--apart", seeds=range(22, 26))
    assert any(found["findings"]["doubled"] for found in runs)
