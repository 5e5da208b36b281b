"""`actswap show`: what a bundle or a recipe holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from actswap.cli.convert import cost_table, report_tables
from actswap.cli.verb import Answer, verb
from actswap.errors import LoadError, first_line

if TYPE_CHECKING:
    from actswap.io.base_note import Base


@verb(click.argument("path", metavar="BUNDLE|RECIPE", type=click.Path()))
def command(path: str) -> Answer:
    """Show the plan, the report and the base of BUNDLE, or what RECIPE does; no model is loaded."""
    if path.endswith(".toml"):
        from actswap.cli.run import show_recipe

        return show_recipe(path)
    from actswap.io import bundle_files

    document, base = bundle_files.read(path), bundle_files.read_base(path)
    try:
        units = _units(path, document["plan"])
        shown = _lines(path, document, base, units)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise LoadError(
            f"the report or the plan in {path} is not one of actswap",
            why=first_line(error),
            fix="convert the base model again",
        ) from None
    data = {key: document[key] for key in ("actswap", "torch", "base", "plan", "report")}
    return Answer({**data, "units": units}, shown)


def _lines(path: str, document: Mapping[str, Any], base: Base, units: Mapping[str, Any]) -> list[Any]:
    """Return what a bundle holds, as lines and tables."""
    from actswap.activations.describe import sentence

    plan, note = document["plan"], document["report"]
    shown = [
        f"{path}: {plan.get('model')} converted to {plan.get('target')}, "
        f"{len(plan.get('choices', ()))} sites "
        f"(actswap {document.get('actswap')}, torch {document.get('torch')})",
        f"base: {base.file or '-'}" + (f" with --model {base.model}" if base.model else ""),
    ]
    if "report" in note:
        shown += report_tables(note["report"])
    if "cost" in note:
        shown.append(cost_table(note["cost"]["before"], note["cost"]["after"]))
    return [*shown, *(f"{name}: {sentence(unit)}" for name, unit in units.items())]


def _units(path: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The coefficients that the Padé units of a bundle have now, by site, as in the papers."""
    from actswap.activations.describe import describe_state
    from actswap.io import bundle_files

    found, state = {}, bundle_files.read_state(path)
    for choice in plan.get("choices", ()):
        degrees = choice["options"].get("degrees", (5, 4))
        for inner in ("", "target.", "inner.", "target.inner."):  # inside a morph, under a cap, or both
            if unit := describe_state(state, f"{choice['path']}.{inner}", (int(degrees[0]), int(degrees[1]))):
                found[choice["site"]["name"]] = unit
    return found
