"""Recipe files: TOML, versioned, checked as a whole before anything starts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actswap.conversion.rules import read_rules
from actswap.errors import ActswapError, UsageError, first_line
from actswap.io.allowed import is_under
from actswap.io.model_source import check_library_source, is_library_source
from actswap.recipe.schema import read_table
from actswap.recipe.tables import SCHEMA, Recipe
from actswap.sites import STARTS

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library has it since 3.11; pip's vendored copy is not an interface
    import tomli as tomllib  # type: ignore[import-not-found]

MAX_BYTES = 128 << 10  # the parser and the hints for unknown keys take time for each key
_DEEP_KEY = re.compile(r"(?:[\w\"'-]{1,99}[ \t]*\.[ \t]*){30}")  # the parser takes time by the square of the parts
_PLACED_BY_RUN = ("out", "resume")


class RecipeError(UsageError):
    """A recipe cannot be run.

    Attributes:
        problems: one sentence each, all that were found.
    """

    def __init__(self, name: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        many = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(
            f"{name}: {many}, nothing was started",
            why="".join(f"\n    - {problem}" for problem in problems),
            fix="correct the file, or override a value: actswap run RECIPE --set section.key=value",
        )


def read_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, ready: bool = True, allow: Sequence[str] = ()
) -> Recipe:
    """Read and check a recipe file; nothing that it names is imported or opened.

    Args:
        path: the TOML file.
        overrides: `section.key=value` texts that replace values of the file; the value is TOML, or a plain
            text.
        ready: also check what running it needs: that the data is named, that files and folders exist, and that the
            code and the files it names are allowed.
        allow: packages whose code the recipe may name as its model or its data. What `overrides` name is allowed.

    Raises:
        RecipeError: with every problem of the file; what needs the network (selectors) is checked by
            `run_recipe`.
    """
    path = Path(path)
    try:
        document = tomllib.loads(_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), [f"cannot be read: {error}"]) from error
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise RecipeError(str(path), [f"is not TOML: {first_line(error)}"]) from error
    problems: list[str] = []
    for text in overrides:
        override(document, text, problems)
    recipe = parse(document, problems, ready=ready)
    if recipe is not None and ready:
        trusted = {text.partition("=")[0].strip() for text in overrides}
        problems += check_trust(recipe, path, allow, trusted)
    if recipe is None or problems:
        raise RecipeError(str(path), problems)
    return recipe


def _text(path: Path) -> str:
    """Return the content of a recipe that the parser reads in a second."""
    if path.exists() and not path.is_file():
        raise RecipeError(str(path), ["is no file but a folder, a device, a pipe or a socket"])
    if path.stat().st_size > MAX_BYTES:
        raise RecipeError(str(path), [f"is larger than {MAX_BYTES >> 10} KiB"])
    text = path.read_text(encoding="utf-8")
    if _DEEP_KEY.search(text):
        raise RecipeError(str(path), ["holds a key of more than 30 parts"])
    return text


def parse(document: dict[str, Any], problems: list[str], *, ready: bool = True) -> Recipe | None:
    """Turn parsed TOML into a recipe; problems are appended, and None is returned if the tables cannot be built."""
    schema = document.get("schema")
    if isinstance(schema, int) and schema != SCHEMA:
        problems.append(f"schema: is {schema}, this actswap reads {SCHEMA}")
    if isinstance(document.get("tune"), dict):
        problems += [
            f"tune.{name}: is set by `actswap run --out FOLDER [--resume]`, not in a recipe"
            for name in _PLACED_BY_RUN
            if name in document["tune"]
        ]
    recipe = read_table(Recipe, document, "", problems)
    if recipe is not None:
        problems += check(recipe) + (check_files(recipe) if ready else [])
    return recipe


def check(recipe: Recipe) -> list[str]:
    """Return the problems of values that fit their types: ranges and names."""
    found: list[str] = []
    if not recipe.model.input or min(recipe.model.input) < 1:
        found.append(f"model.input: must be positive sizes like [1, 3, 224, 224], is {list(recipe.model.input)}")
    if recipe.data.size < 0:
        found.append(f"data.size: must not be negative, is {recipe.data.size}")
    if bool(recipe.convert.target) == bool(recipe.convert.targets):
        found.append("convert: needs either target, or targets by selector")
    else:
        try:
            read_rules(recipe.convert.asked, recipe.convert.options)
        except ActswapError as error:
            key = "targets" if recipe.convert.targets else "target"
            found.append(f"convert.{key}: {error.what}" + (f"; {error.fix}" if error.fix else ""))
    if recipe.convert.start not in STARTS:
        found.append(f"convert.start: {recipe.convert.start!r}, one of {', '.join(STARTS)}")
    if recipe.convert.tolerance <= 0:
        found.append(f"convert.tolerance: must be above 0, is {recipe.convert.tolerance}")
    if recipe.calibrate.batches < 1 or recipe.calibrate.batch < 1:
        found.append("calibrate: batches and batch must be at least 1")
    if recipe.tune is not None:
        found += [f"tune.{problem}" for problem in recipe.tune.problems()]
    return found


def check_files(recipe: Recipe) -> list[str]:
    """Return what is missing on this machine: files, folders, the data that the user has to name.

    A name that no file can have (too long, say) is a missing file: os.path tells, pathlib raises.
    """
    found: list[str] = []
    if ":" not in recipe.model.source and not os.path.exists(recipe.model.source):
        found.append(f"model.source: there is no file {recipe.model.source!r}, and it is no library:name either")
    if recipe.model.weights and not os.path.exists(recipe.model.weights):
        found.append(f"model.weights: there is no file {recipe.model.weights!r}")
    data = recipe.data.source
    if data and ":" not in data and not os.path.isdir(data):
        found.append(f"data.source: {data!r} is neither a folder nor package.module:function")
    if not data and recipe.tune is not None:
        found.append("data.source: is missing, the recipe trains: --data FOLDER or --data package.module:function")
    return found


def check_trust(recipe: Recipe, path: Path, allow: Sequence[str], trusted: Collection[str]) -> list[str]:
    """Return what the recipe names that the user has not agreed to: code of packages, and files elsewhere.

    Args:
        recipe: the recipe.
        path: its file.
        allow: packages whose code it may name.
        trusted: the keys that the user set, which may name anything.
    """
    named = {"model.source": recipe.model.source, "model.weights": recipe.model.weights}
    named["data.source"] = recipe.data.source
    return untrusted(named, path, f"actswap run {path}", allow, trusted)


def untrusted(
    named: Mapping[str, str], path: Path, command: str, allow: Sequence[str], trusted: Collection[str]
) -> list[str]:
    """Return what a file names that the user has not agreed to.

    Args:
        named: what the file names, by key. A key that ends in `weights` names a file; the others name code if they
            have a colon, else a file or a folder.
        path: the file.
        command: what the user would run, for the advice.
        allow: packages whose code it may name.
        trusted: the keys that the user set, which may name anything.
    """
    found: list[str] = []
    for key, value in named.items():
        if not value or key in trusted:
            continue
        if ":" not in value or key.endswith("weights"):
            found += _outside(key, value, path)
        elif not key.startswith("data") and is_library_source(value):
            try:
                check_library_source(value, key)
            except ActswapError as error:
                found.append(f"{error.what}; set it yourself: --set {key}=...")
        elif not is_under(value.partition(":")[0], allow):
            package = value.partition(":")[0].partition(".")[0]
            found.append(
                f"{key}: {value!r} is code, which a {_kind(command)} may only name with your word: "
                f"{command} --allow {package}"
            )
    return found


def _kind(command: str) -> str:
    return "search file" if command.startswith("actswap search") else "recipe"


def _outside(key: str, value: str, recipe: Path) -> list[str]:
    """Return a problem for a path that leaves the current folder and the recipe's."""
    here = (Path.cwd().resolve(), recipe.absolute().parent.resolve())
    try:
        real = Path(value).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        return [f"{key}: {value[:80]!r} is no path ({first_line(error)})"]
    if not Path(value).is_absolute() and ".." not in Path(value).parts and any(map(real.is_relative_to, here)):
        return []
    option = {"data.source": "--data ", "model.weights": "--weights "}.get(key, f"--set {key}=")
    return [f"{key}: {value[:80]!r} lies outside of the current folder; give it yourself: {option}{value[:80]}"]


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return plain JSON data, for `actswap show`."""
    data = asdict(recipe)
    if recipe.tune is not None:
        data["tune"] = recipe.tune.to_dict()
    return data


def override(document: dict[str, Any], text: str, problems: list[str]) -> None:
    """Write one `section.key=value` text into a parsed TOML document; the value is TOML, or a plain text."""
    key, equals, raw = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        problems.append(f"--set {text}: must be section.key=value")
        return
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    table = document
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            problems.append(f"--set {text}: {part} is not a table")
            return
    table[parts[-1]] = value
