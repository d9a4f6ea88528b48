"""Files to work on, and what a pass over one of them yields. Knows nothing of jobs: the recount uses it as well."""

from __future__ import annotations

import ast
import io
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

FIRST_MODULE = "pydoc"
LARGEST_FILE = 16 * 1024 * 1024
_WORD = re.compile(r"\w+")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to read: a module of the standard library, or a file of a folder; `name` is unique in a run."""

    name: str
    path: str


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one file holds."""

    text: str
    lines: int
    words: int
    imports: tuple[str, ...]
    """Names of modules as the file's import statements have them, each once."""


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """The sums over all files that could be read."""

    files: int = 0
    lines: int = 0
    words: int = 0
    imports: int = 0

    def plus(self, reading: Reading) -> Totals:
        """Return the sums with one more file."""
        return Totals(
            files=self.files + 1,
            lines=self.lines + reading.lines,
            words=self.words + reading.words,
            imports=self.imports + len(reading.imports),
        )


class UnreadableError(Exception):
    """The file cannot be worked on, and trying again would not help; the text says why."""


def read(source: Source) -> Reading:
    """Read and parse one file. Raises UnreadableError."""
    raw = _bytes_of(Path(source.path))
    is_python = source.path.endswith(".py")
    text = _text_of(raw, is_python=is_python)
    return Reading(
        text=text,
        lines=text.count("\n"),
        words=len(_WORD.findall(text)),
        imports=_imports_of(raw, _package_of(source)) if is_python else (),
    )


def first_sources(folder: Path | None) -> list[Source]:
    """Return what a run starts from: every file of the folder, or one module of the standard library."""
    if folder is not None:
        return list(_files_of(folder))
    first = find_module(FIRST_MODULE)
    return [first] if first else []


def next_sources(source: Source, reading: Reading) -> list[Source]:
    """Return what a file of the standard library leads to: the modules it imports, and those inside its package."""
    found = [find_module(name) for name in reading.imports]
    return [*filter(None, found), *_inside(source)]


def find_module(name: str) -> Source | None:
    """Return where the running Python's standard library keeps a module, or None if it holds no such file."""
    place = standard_library().joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_name(place.name + ".py")):
        if path.is_file():
            return Source(name=name, path=str(path))
    return None


@cache
def standard_library() -> Path:
    """Return the folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def _files_of(folder: Path) -> Iterator[Source]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
        if not hidden and path.is_file():
            yield Source(name=str(inside), path=str(path.resolve()))


def _inside(source: Source) -> Iterator[Source]:
    path = Path(source.path)
    if path.name != "__init__.py":
        return
    for neighbour in sorted(path.parent.iterdir()):
        if neighbour.stem.isidentifier() and neighbour.stem != "__init__":
            found = find_module(f"{source.name}.{neighbour.stem}")
            if found:
                yield found


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UnreadableError(f"larger than {LARGEST_FILE // 1024**2} MiB")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror or error}") from error


def _text_of(raw: bytes, *, is_python: bool) -> str:
    if b"\0" in raw:
        raise UnreadableError("binary, not text")
    try:
        encoding = tokenize.detect_encoding(io.BytesIO(raw).readline)[0] if is_python else "utf-8"
        return raw.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError) as error:
        raise UnreadableError(f"cannot be decoded: {error}") from error


def _package_of(source: Source) -> list[str]:
    parts = source.name.removesuffix(".py").replace("/", ".").split(".")
    return parts if source.path.endswith("__init__.py") and parts[-1] != "__init__" else parts[:-1]


def _imports_of(raw: bytes, package: list[str]) -> tuple[str, ...]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(raw)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableError(f"is no Python that {_this_python()} can parse: {error}") from error
    return tuple(dict.fromkeys(name for node in _statements(tree) for name in _names_in(node, package)))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements below a node, those in functions too; expressions, the most of a tree, are not entered."""
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for below in getattr(node, field, ()):
            yield below
            yield from _statements(below)


def _names_in(node: ast.AST, package: list[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else []
        yield ".".join([*above, *filter(None, [node.module])]) or "."


def _this_python() -> str:
    return f"Python {sys.version_info.major}.{sys.version_info.minor}"
