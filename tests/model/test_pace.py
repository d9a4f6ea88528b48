"""Whose jobs may share a commit: handlers that are quick, time after time."""

from __future__ import annotations

from sidework.model.pace import MOST_OWED, PAID_BACK, QUICK, QUICK_RUNS, SLOW, UNKNOWN, Pace, after_run, in_debt

NOW = 1000.0


def after_runs(pace: Pace, *seconds: float, shared: bool = False) -> Pace:
    for each in seconds:
        pace = after_run(pace, each, shared=shared, now=NOW)
    return pace


def shares(pace: Pace, now: float = NOW) -> bool:
    return pace.may_share(now=now)


QUICK_ONE = after_runs(UNKNOWN, *[QUICK] * QUICK_RUNS)


def test_nobody_shares_before_it_was_quick_many_times_in_a_row():
    assert not shares(UNKNOWN)
    assert not shares(after_runs(UNKNOWN, *[QUICK] * (QUICK_RUNS - 1)))
    assert shares(QUICK_ONE)


def test_one_run_that_is_not_quick_begins_the_row_anew():
    almost = after_runs(UNKNOWN, *[QUICK] * (QUICK_RUNS - 1), QUICK * 1.01)
    assert not shares(after_runs(almost, *[QUICK] * (QUICK_RUNS - 1)))
    assert shares(after_runs(almost, *[QUICK] * QUICK_RUNS))


def test_slow_runs_of_who_runs_alone_keep_nobody_waiting_and_are_not_owed():
    assert after_runs(UNKNOWN, 100.0).owed_at(NOW) == 0
    assert shares(after_runs(UNKNOWN, 100.0, *[QUICK] * QUICK_RUNS))


def test_who_shares_may_be_slow_by_chance():
    assert shares(after_runs(QUICK_ONE, SLOW, QUICK, SLOW, shared=True))
    assert not shares(after_runs(QUICK_ONE, *[SLOW] * 5, shared=True))


def test_what_is_neither_quick_nor_slow_changes_nothing_for_who_shares():
    assert after_runs(QUICK_ONE, *[SLOW * 0.99] * 100, shared=True) == QUICK_ONE


def test_who_owes_much_shares_again_when_it_has_paid_back_and_was_quick_again():
    slow = after_runs(QUICK_ONE, MOST_OWED + 1.0, shared=True)
    paid_back_at = NOW + 1.0 / PAID_BACK + 0.001
    assert not shares(slow, paid_back_at)
    quick_again = after_runs(slow, *[QUICK] * QUICK_RUNS)
    assert not shares(quick_again, paid_back_at - 0.1)
    assert shares(quick_again, paid_back_at)


def test_what_is_owed_is_paid_back_meanwhile_and_never_more_than_that():
    pace = in_debt(UNKNOWN, 0.01, now=NOW)
    assert pace.owed_at(NOW) == 0.01
    assert pace.owed_at(NOW + 3600) == 0
    later = in_debt(pace, 0.01, now=NOW + 3600)
    assert later.owed_at(NOW + 3600) == 0.01


def test_a_handler_that_is_slow_as_a_rule_costs_the_others_a_twentieth_of_their_time():
    pace, now, cost = QUICK_ONE, NOW, 0.0
    while now < NOW + 600:
        if shares(pace, now):
            pace, cost, now = after_run(pace, 0.1, shared=True, now=now + 0.1), cost + 0.1, now + 0.1
        else:
            pace, now = after_run(pace, QUICK, shared=False, now=now + 0.01), now + 0.01
    assert cost <= 600 * PAID_BACK + 0.2
