"""F14: one machine cut off, a worker killed, a worker stopped, again and again: nothing is lost, nothing done twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.faults.hosts import may_make_namespaces
from tests.faults.running import campaign, campaigns, percentile

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE = 6
"""Seconds. A worker stops half a second before its lease ends: on a busy machine a shorter one might be late."""


@pytest.mark.parametrize("kind", ["network namespaces", "proxies"])
def test_machines_that_are_cut_off_and_workers_that_are_killed_or_stopped_lose_and_double_nothing(
    kind: str, figures: Callable[[str], None]
) -> None:
    """A loopback address with a proxy takes the place of a namespace where none may be made; as root both are tried."""
    if kind == "network namespaces" and not may_make_namespaces():
        kind = "proxies"
    found = campaign(
        "partitions", "--rounds", 1, "--seed", 14, "--lease", LEASE, *(["--proxies"] if kind == "proxies" else [])
    )
    findings = found["findings"]
    figures(
        f"F14 partitions, {found['kind']}, lease {found['lease']:g} s: {found['cut']} cut off, {found['killed']} "
        f"killed, {found['paused']} stopped ({found['inside']} workers between first write and commit), "
        f"{findings['jobs']} jobs, lost {findings['lost']}, doubled {findings['doubled']}, run again after a kill "
        f"{percentile(found['after_kills'], 0.5):.1f} s (p50) {max(found['after_kills'], default=0):.1f} s (longest)"
    )
    assert (findings["wrongs"], found["strange"]) == ([], [])
    assert (found["kind"], found["cut"], found["killed"], found["paused"]) == (kind, 1, 1, 1)
    assert found["inside"] >= 2
    assert 1 < found["limited_at_most"] <= 3
    assert findings["jobs"] > 50
    assert max([*found["after_kills"], *found["after_cuts"]], default=0) < 2 * found["lease"] + 5


def test_without_the_fence_a_worker_that_was_stopped_commits_what_others_have_done() -> None:
    """The control. Who notices that its lease has ended before a handler commits, doubles nothing: so several tries."""
    options = ("--rounds", 2, "--pauses-only", "--without-fence", "--proxies")
    assert any(found["findings"]["doubled"] for found in campaigns("partitions", *options, seeds=range(15, 25)))
