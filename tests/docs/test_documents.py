"""Every Python example in README and docs is run, each document in a folder and a namespace of its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "sidework"
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
    for document in [*DOCUMENTS, *ROOT.glob("*.md"), *ROOT.glob("docs/decisions/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_what_the_architecture_names_is_there() -> None:
    words = set(re.findall(r"`([\w./*]+)`", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")))
    source = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    files = {word for word in words if word.endswith(".py")}
    classes = {word for word in words if re.fullmatch(r"(?:[A-Z][a-z]+)+", word)}
    methods = {word for word in words if re.fullmatch(r"(?:[A-Z][a-z]+)+\.[a-z_]+", word)}
    assert len(files) > 20
    assert len(classes) > 15
    assert methods
    assert {word for word in files if not [*SOURCE.rglob(word)]} == set()

    assert {word for word in classes if not re.search(rf"^class {word}\b", source, re.MULTILINE)} == set()
    assert {word for word in methods if f"def {word.partition('.')[2]}(" not in source} == set()
