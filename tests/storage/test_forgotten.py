"""A storage that is forgotten without `close` is freed there and then, and leaves no connection open."""

from __future__ import annotations

import gc
import warnings
import weakref
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sidework.model.job import NewJob, NewWorker
from sidework.storage.contract import Want
from sidework.storage.open import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidework.storage.contract import Storage

NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Let nothing be freed but by the count of who refers to it."""
    gc.disable()
    yield
    gc.enable()


def use(storage: Storage) -> None:
    """Open what connections there are: to read, to write, for turns and for handlers."""
    storage.migrate()
    storage.insert([NewJob(key="k", payload="{}")], now=NOON)
    seat = storage.join(NewWorker(keys=frozenset({"k"}), queues=None, concurrency=1, limits={}), now=NOON)
    want = Want(keys=frozenset({"k"}), queues=None, room=1)
    (job,) = storage.exchange(seat.worker, [], want, now=NOON).claimed
    transaction = storage.transaction(job.claim)
    transaction.begin()
    transaction.abort()
    transaction.close()
    seat.leave()


@pytest.mark.usefixtures("no_collector")
def test_a_forgotten_storage_needs_no_collector_and_leaves_nothing_open(database: str) -> None:
    """The collector would free it together with its connections, in an order of its own: some would be found open."""
    storage = open_storage(database)
    use(storage)
    alive = weakref.ref(storage)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del storage
    assert alive() is None
