"""F7: who is only stopped keeps its job; who lost it commits nothing when it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.running import campaign, campaigns

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_stopped_worker_keeps_its_job_and_a_superseded_one_commits_nothing(figures: Callable[[str], None]):
    found = campaign("pauses", "--scenes", 9, "--pause", 0.7, "--seed", 7)
    figures(
        f"F7 pauses: {found['pauses']} workers stopped, stolen from {found['stolen']}; {found['superseded']} "
        f"superseded, late commits accepted {found['late_commits']}"
    )
    assert (found["stolen"], found["late_commits"], found["wrongs"]) == (0, 0, [])
    assert found["pauses"] == 3
    assert found["superseded"] == found["refused"] == 6


def test_without_the_fence_the_same_pauses_let_late_commits_in():
    """The control."""
    assert any(
        found["late_commits"] for found in campaigns("pauses", "--scenes", 6, "--without-fence", seeds=range(8, 14))
    )
