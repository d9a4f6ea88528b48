"""The registry: keys, replacing, refusing, and what the decorator makes of its forms."""

from __future__ import annotations

import types
from datetime import UTC, datetime
from typing import Any

import pytest

from sidework.errors import DuplicateJobKey, InvalidHandler, UnknownJobKey
from sidework.model.job import NewJob
from sidework.registry import Registry


class NoPost:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def send(self, job: NewJob, db: object) -> int:
        raise NotImplementedError

    async def asend(self, job: NewJob, db: object) -> int:
        raise NotImplementedError

    def result(self, job_id: int, into: object, timeout: float | None) -> object:
        raise NotImplementedError

    async def aresult(self, job_id: int, into: object, timeout: float | None) -> object:
        raise NotImplementedError


@pytest.fixture
def registry() -> Registry:
    return Registry(NoPost())


def send_mail(to: str) -> None: ...
def resize(path: str) -> None: ...


def test_the_key_is_the_functions_name_unless_another_is_given(registry: Registry) -> None:
    handler = registry.decorator
    assert handler(send_mail).key == "send_mail"
    assert handler()(resize).key == "resize"
    assert handler("mail.send", max_attempts=7, queue="mail")(send_mail).options.max_attempts == 7
    assert registry.keys() == {"send_mail", "resize", "mail.send"}
    assert [handler.key for handler in registry.handlers()] == ["send_mail", "resize", "mail.send"]


def test_the_decorator_hands_back_what_is_registered(registry: Registry) -> None:
    assert registry.decorator("mail")(send_mail) is registry.get("mail") is registry.find("mail")


def test_one_function_may_have_two_keys_one_above_the_other(registry: Registry) -> None:
    registry.decorator("outer")(registry.decorator("inner")(send_mail))
    assert registry.get("outer").function is registry.get("inner").function is send_mail


def run_again(source: str) -> Any:
    """Define a function as a reload or a notebook cell does."""
    module = types.ModuleType("cell")
    exec(source, module.__dict__)  # the text is the test's own
    function = module.__dict__["task"]
    function.__module__ = "cell"
    return function


def test_the_same_function_registered_again_replaces_itself(registry: Registry) -> None:
    first = registry.register("task", run_again("def task(x: int): ..."), {})
    second = registry.register("task", run_again("def task(x: int, y: int = 0): ..."), {"priority": 3})
    assert registry.get("task") is second is not first
    assert second.new(x=1, y=2).priority == 3


def test_another_function_under_the_same_key_is_refused_and_changes_nothing(registry: Registry) -> None:
    registry.register("mail", send_mail, {})
    with pytest.raises(DuplicateJobKey) as caught:
        registry.register("mail", resize, {})
    assert "test_registry.send_mail already" in str(caught.value)
    assert "test_registry.resize" in str(caught.value)
    assert registry.get("mail").function is send_mail


def test_an_unknown_key_names_the_nearest(registry: Registry) -> None:
    registry.register("send_mail", send_mail, {})
    with pytest.raises(UnknownJobKey, match="Did you mean 'send_mail'") as caught:
        registry.get("send_mial")
    assert caught.value.close_matches == ("send_mail",)
    assert registry.find("send_mial") is None


def test_what_cannot_be_registered_is_refused_by_name(registry: Registry) -> None:
    def starred(*args: int) -> None: ...

    with pytest.raises(InvalidHandler, match=r"test_registry\..*starred cannot be the handler of 'starred': \*args"):
        registry.decorator(starred)
    with pytest.raises(InvalidHandler, match="did you mean 'max_attempts'"):
        registry.register("mail", send_mail, {"max_attempt": 1})
    with pytest.raises(InvalidHandler, match="has no name of its own"):
        registry.decorator(lambda to: to)
    with pytest.raises(InvalidHandler, match="key="):
        registry.register("", send_mail, {})
    with pytest.raises(InvalidHandler, match="7 is not a function"):
        registry.register("mail", 7, {})  # type: ignore[arg-type]
    assert registry.keys() == frozenset()


def test_a_lambda_with_a_key_is_a_handler(registry: Registry) -> None:
    assert registry.decorator("double")(lambda x: 2 * x)(4) == 8


def test_a_declared_key_is_not_registered_here(registry: Registry) -> None:
    remote = registry.declare("train_model")
    assert remote.new(model="x").payload == '{"model":"x"}'
    assert registry.keys() == frozenset()
    with pytest.raises(InvalidHandler):
        registry.declare("")
