"""F3: what was acknowledged survives a power cut, if it is told to; and the whole database is one that once was."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import pytest
from tests.faults.running import figures_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("apsw") is None:  # looked for and not imported: it is a second SQLite
        pytest.skip("apsw is not installed")
    folder = tmp_path_factory.mktemp("recorded")
    target = folder / "recording.json"
    figures_of(["tests.faults.child", "record"], folder, target, 1)
    return target


def cut(recording: Path, durability: str, images: int) -> dict[str, Any]:
    return figures_of(["tests.faults.power_cut"], recording, "--durability", durability, "--images", images)


def test_a_power_cut_loses_nothing_acknowledged(recording: Path, figures: Callable[[str], None]):
    found = cut(recording, "full", 300)
    figures(
        f"F3 power cut, full: {found['images']} images of {found['transactions']} transactions, with losses "
        f"{found['images_with_losses']}, damaged {found['damaged']}"
    )
    assert found["bytes_of_log"] > 1.3 * 4096 * 1000, "the log was never begun anew"
    assert (found["images_with_losses"], found["damaged"]) == (0, 0), found["examples"]


def test_relaxed_durability_loses_only_the_last_ones_and_damages_nothing(
    recording: Path, figures: Callable[[str], None]
):
    found = cut(recording, "relaxed", 150)
    figures(
        f"F3 power cut, relaxed: {found['images']} images, with losses {found['images_with_losses']} (at most "
        f"{found['most_lost']} of {found['transactions']} transactions), damaged {found['damaged']}"
    )
    assert found["images_with_losses"] > 0
    assert found["damaged"] == 0, found["examples"]


def test_without_synchronous_the_same_cuts_lose(recording: Path):
    """The control."""
    found = cut(recording, "off", 150)
    assert found["images_with_losses"] > 0
