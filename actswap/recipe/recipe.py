"""Recipe files: TOML, versioned, checked as a whole before anything starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actswap import activations
from actswap.errors import ActswapError, UsageError
from actswap.recipe.schema import read_table
from actswap.recipe.tables import SCHEMA, Recipe
from actswap.sites import STARTS

if sys.version_info >= (3, 11):
    import tomllib
else:  # the standard library has it since 3.11; pip's vendored copy is not an interface
    import tomli as tomllib  # type: ignore[import-not-found]

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


def read_recipe(path: str | Path, overrides: Sequence[str] = (), *, ready: bool = True) -> Recipe:
    """Read and check a recipe file.

    Args:
        path: the TOML file.
        overrides: `section.key=value` texts that replace values of the file; the value is TOML, or a plain
            text.
        ready: also check what running it needs: that the data is named, that files and folders exist.

    Raises:
        RecipeError: with every problem of the file; what needs the network (selectors) is checked by
            `run_recipe`.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), [f"cannot be read: {error}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(str(path), [f"is not TOML: {error}"]) from error
    problems: list[str] = []
    for text in overrides:
        override(document, text, problems)
    recipe = parse(document, problems, ready=ready)
    if recipe is None or problems:
        raise RecipeError(str(path), problems)
    return recipe


def parse(document: dict[str, Any], problems: list[str], *, ready: bool = True) -> Recipe | None:
    """Turn parsed TOML into a recipe; problems are appended, None where the tables cannot be built."""
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
    try:
        spec = activations.get(recipe.convert.target)
        unknown = [name for name in recipe.convert.options if name not in spec.options]
        found += [f"convert.options.{name}: {spec.name} has {', '.join(spec.options) or 'none'}" for name in unknown]
    except ActswapError as error:
        found.append(f"convert.target: {error.what}" + (f"; {error.fix}" if error.fix else ""))
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
    """Return what is missing on this machine: files, folders, the data that the user has to name."""
    found: list[str] = []
    if ":" not in recipe.model.source and not Path(recipe.model.source).exists():
        found.append(f"model.source: there is no file {recipe.model.source!r}, and it is no library:name either")
    if recipe.model.weights and not Path(recipe.model.weights).exists():
        found.append(f"model.weights: there is no file {recipe.model.weights!r}")
    data = recipe.data.source
    if data and ":" not in data and not Path(data).is_dir():
        found.append(f"data.source: {data!r} is neither a folder nor package.module:function")
    if not data and recipe.tune is not None:
        found.append("data.source: is missing, the recipe trains: --data FOLDER or --data package.module:function")
    return found


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
