"""Every Python example in README and docs is run, each document in a folder and a namespace of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_examples_of_a_document_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parsed = Sybil(parsers=[PythonCodeBlockParser()], path=str(document.parent)).parse(document)
    for example in parsed.examples():
        example.evaluate()


def test_the_documents_with_code_have_examples_that_are_run() -> None:
    for name in ("README.md", "docs/quickstart.md", "docs/handlers.md", "docs/transactions.md", "docs/seed.md"):
        parsed = Sybil(parsers=[PythonCodeBlockParser()], path=str(ROOT)).parse(ROOT / name)
        assert list(parsed.examples()), name


def test_links_between_documents_lead_somewhere() -> None:
    import re

    for document in [*DOCUMENTS, *ROOT.glob("*.md"), *ROOT.glob("docs/decisions/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
