"""Converted models in pickles: check the two functions of actswap that such a pickle calls, and call them.

`torch.save` of a converted model names two functions of actswap. `plan_from_text` reads the plan. `reinstalled` makes
the methods of a module again, from the module's own class and the expressions that were exchanged in it. Neither takes
code from the file. Their arguments are JSON texts, which are checked like the plan of a bundle.
"""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from actswap.conversion.passes.reinstall import reinstalled
from actswap.errors import ActswapError, LoadError, first_line
from actswap.io.plan_check import check_plan
from actswap.plan import Plan, plan_from_text
from actswap.record import Record

PLAN = ("actswap.plan", "plan_from_text")
REINSTALLED = ("actswap.conversion.passes.reinstall", "reinstalled")
_WHERE = "the file"
_FIX = "save the model again with this version of actswap, or as a bundle: actswap.save(model, 'folder')"


def plan_of_text(text: Any, numbers: int) -> Plan:
    """Return the plan of a converted model.

    Args:
        text: what the pickle hands to `plan_from_text`.
        numbers: how many numbers the file can hold; no channel count may be larger.

    Raises:
        LoadError: the text is no valid plan.
    """
    check_plan(_json(text), numbers, _WHERE)
    try:
        return plan_from_text(text)
    except ActswapError as error:
        raise LoadError("the file's plan is not valid", why=error.why or error.what, fix=_FIX) from None


def module_of_text(kind: type, text: Any, numbers: int) -> nn.Module:
    """Return an empty instance of a module's class with the methods that its conversion gave it.

    Args:
        kind: the class, already allowed.
        text: what the pickle hands to `reinstalled`.
        numbers: how many numbers the file can hold.

    Raises:
        LoadError: the text has another form than actswap writes.
    """
    layers = _json(text)
    if not issubclass(kind, nn.Module) or not isinstance(layers, list) or len(layers) > 64:
        raise LoadError("the file holds converted methods of no module", fix=_FIX)
    for layer in layers:
        if not isinstance(layer, dict) or set(layer) not in ({"fixed"}, {"members", "plan"}):
            raise LoadError("the file holds converted methods of another form than actswap writes", fix=_FIX)
        if "plan" in layer:
            check_plan(layer["plan"], numbers, _WHERE)
            members = layer["members"]
            if not isinstance(members, list) or not all(isinstance(m, str) and m.isidentifier() for m in members):
                raise LoadError("the file holds converted methods without names", fix=_FIX)
    try:
        return reinstalled(kind, text)
    except ActswapError as error:
        raise LoadError(error.what, why=error.why, fix=error.fix or _FIX) from None


def check_record(record: object) -> None:
    """Check the record of a converted model: a plan, and the modules that stood at its paths."""
    if not isinstance(record, Record):
        return
    plan, originals = vars(record).get("plan"), vars(record).get("originals")
    pairs = isinstance(originals, tuple) and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and (pair[1] is None or isinstance(pair[1], nn.Module))
        for pair in originals
    )
    if not isinstance(plan, Plan) or not pairs or len(vars(record)) != 2:
        raise LoadError("the file holds a record of a conversion that is not valid", fix=_FIX)


def _json(text: Any) -> Any:
    try:
        if not isinstance(text, str):
            raise ValueError(f"a {type(text).__name__}")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError("the file's plan is damaged", why=first_line(error), fix=_FIX) from None
