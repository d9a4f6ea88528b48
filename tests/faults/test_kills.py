"""F1, F2: `kill -9` anywhere loses nothing and does nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.running import campaign, campaigns, percentile

if TYPE_CHECKING:
    from collections.abc import Callable


def test_kills_lose_nothing_and_do_nothing_twice(figures: Callable[[str], None]):
    found = campaign("kills", "--kills", 150, "--seconds", 20, "--seed", 11)
    recoveries = found["recoveries"]
    figures(
        f"F1 F2 kills: {found['kills']} ({found['workers']} workers, {found['enqueuers']} enqueuers; {found['inside']} "
        f"between first write and commit, {found['handlers']} of them in handlers, {found['sharing']} while "
        f"ended jobs waited for a commit that they share; {len(found['points'])} named points), "
        f"{found['findings']['jobs']} jobs, lost {found['findings']['lost']}, doubled "
        f"{found['findings']['doubled']}, run again after {percentile(recoveries, 0.5):.3f} s (p50) "
        f"{percentile(recoveries, 0.99):.3f} s (p99)"
    )
    assert found["findings"]["wrongs"] == [], f"--seed {found['seed']} repeats it"
    assert found["strange"] == []
    assert found["workers"] >= 10
    assert found["enqueuers"] >= 10
    assert found["inside"] * 2 >= found["kills"]
    assert found["handlers"] * 2 >= found["workers"]
    assert found["sharing"] > 0
    assert len(found["points"]) >= 10
    assert percentile(recoveries, 0.5) < 2.0


def test_effects_apart_from_their_jobs_are_doubled_by_the_same_kills():
    """The control: a suite that finds nothing here could find nothing anywhere."""
    runs = campaigns("kills", "--kills", 60, "--seconds", 15, "--apart", seeds=range(12, 16))
    assert any("more than once" in wrong for found in runs for wrong in found["findings"]["wrongs"])
