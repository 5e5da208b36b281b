"""Read a search file: TOML by one strict schema; all problems are named before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from actswap.errors import UsageError, first_line
from actswap.recipe.recipe import override, untrusted
from actswap.recipe.schema import read_table
from actswap.search.samplers import check_sampler
from actswap.search.tables import PLACED_BY_SEARCH, SCHEMA, SearchFile

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library has it since 3.11; pip's vendored copy is not an interface
    import tomli as tomllib  # type: ignore[import-not-found]


def read_search(path: str | Path, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> SearchFile:
    """Read and check a search file; nothing that it names is imported or opened.

    Args:
        path: the TOML file.
        overrides: `section.key=value` texts that replace values of the file.
        allow: packages whose code the file may name. What `overrides` name is allowed.

    Raises:
        UsageError: with every problem of the file.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _error(str(path), [f"cannot be read: {error}"]) from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise _error(str(path), [f"is not TOML: {first_line(error)}"]) from error
    problems: list[str] = []
    for text in overrides:
        override(document, text, problems)
    trusted = {text.partition("=")[0].strip() for text in overrides}
    return read_document(document, str(path), f"actswap search {path}", allow, trusted, problems)


def read_document(
    document: Mapping[str, Any],
    name: str,
    command: str,
    allow: Sequence[str] = (),
    trusted: Collection[str] = (),
    problems: Sequence[str] = (),
) -> SearchFile:
    """Turn parsed TOML, or what `SearchFile.to_dict` gave, into a search.

    Args:
        document: the tables.
        name: of the file or the storage, for messages.
        command: what the user runs, for the advice.
        allow: packages whose code it may name.
        trusted: keys that the user set, which may name anything.
        problems: what was found before.

    Raises:
        UsageError: with every problem.
    """
    found = list(problems)
    schema = document.get("schema")
    if isinstance(schema, int) and schema != SCHEMA:
        found.append(f"schema: is {schema}, this actswap reads {SCHEMA}")
    tune = document.get("tune")
    if isinstance(tune, Mapping):
        found += [f"tune.{key}: is set by the search, not in its file" for key in PLACED_BY_SEARCH if key in tune]
    read = _table(document, found)
    if read is not None:
        found += read.child.problems() + [f"tune.{problem}" for problem in read.tune.problems()]
        if read.tune.needs_teacher and read.child.from_scratch:
            found.append(f"tune: distils, but {read.child.network} is trained from scratch and has no teacher")
        found += _attempt(lambda: check_sampler(read.search.sampler, read.space), "search.sampler")
        named = {"child.weights": read.child.weights, "data.source": read.data.source}
        if not read.child.from_scratch:
            named["child.network"] = read.child.network
        found += untrusted(named, Path(name), command, allow, trusted)
        if not read.data.source:
            found.append("data.source: is missing: --data FOLDER or --data package.module:function")
    if read is None or found:
        raise _error(name, found)
    return read


def _table(document: Mapping[str, Any], problems: list[str]) -> SearchFile | None:
    try:
        return read_table(SearchFile, document, "", problems)
    except UsageError as error:  # the space and the settings check themselves
        problems.append(f"{error.what}: {error.why}" if error.why else error.what)
        return None


def _attempt(check: Any, where: str) -> list[str]:
    try:
        check()
    except UsageError as error:
        return [f"{where}: " + "; ".join(part for part in (error.what, error.why, error.fix) if part)]
    return []


def _error(name: str, problems: Sequence[str]) -> UsageError:
    many = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return UsageError(
        f"{name}: {many}, nothing was started",
        why="".join(f"\n    - {problem}" for problem in problems),
        fix="correct the file, or override a value: actswap search FILE --set section.key=value",
    )
