"""F6: nobody is told "busy" while others work as they should, and the log stays within its bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.running import campaign, percentile

if TYPE_CHECKING:
    from collections.abc import Callable

ORDINARY_LOG = 8 * 1024 * 1024
"""What the log may have: 4 MiB from which on it begins anew, and what is written until it can."""


def test_a_storm_of_writers_an_old_snapshot_and_a_held_lock(figures: Callable[[str], None]):
    found = campaign("storm", "--seconds", 8)
    figures(
        f"F6 storm: {found['enqueues']} enqueues by 5 processes beside 2 workers, p99 "
        f"{percentile(found['latencies'], 0.99) * 1000:.0f} ms; lock held by a stranger for {found['held_for']:.1f} s, "
        f"longest wait {max(found['latencies_beside_holder']):.1f} s, errors {len(found['refused'])}; "
        f"log {found['log_without_reader'] / 1e6:.1f} MB, beside an old snapshot "
        f"{found['log_beside_reader'] / 1e6:.1f} MB, afterwards {found['log_afterwards'] / 1e6:.1f} MB"
    )
    assert found["refused"] == []
    assert found["findings"]["wrongs"] == []
    assert max(found["latencies_beside_holder"]) >= 0.5 * found["held_for"]
    assert found["log_without_reader"] <= ORDINARY_LOG
    # Nothing can begin the log anew while somebody reads what only it holds; the bound is that it shrinks afterwards.
    assert found["log_afterwards"] <= max(ORDINARY_LOG, found["log_without_reader"])
