"""Load training data from a function of the user or from an image folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from actswap.errors import UsageError, first_line
from actswap.io.model_source import from_current_folder
from actswap.train.data import Data
from actswap.train.folder import image_folder


def load_data(source: str, size: int | None = None) -> Data:
    """Return the data that `package.module:function` builds, or an image folder.

    Args:
        source: `package.module:function` (called without arguments, returns `Data`, a dataset, or a (train,
            valid) pair), or a folder with `train/CLASS/*` and optionally `val/CLASS/*`.
        size: side of the square images that a folder is read as; None is 224.

    Raises:
        UsageError: no such folder, module or function, or it returned something else.

    >>> load_data("no/such/folder")
    Traceback (most recent call last):
        ...
    actswap.errors.UsageError: ...
    """
    if Path(source).is_dir():
        return image_folder(Path(source), size or 224)
    module_name, colon, function_name = source.partition(":")
    if not colon or not module_name or not function_name:
        raise UsageError(
            f"no data at {source!r}",
            why="neither a folder nor package.module:function",
            fix="--data folder/with/train   or   --data mypackage.mydata:make",
        )
    with from_current_folder():
        try:
            function = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError) as error:
            fix = "put its folder on PYTHONPATH"
            raise UsageError(f"no data function {source!r}", why=str(error), fix=fix) from error
        if not callable(function):
            raise UsageError(
                f"{source} is a {type(function).__name__}, not a function", fix="def make(): return train, valid"
            )
        try:
            made = function()
        except Exception as error:  # the user's code may raise anything
            raise UsageError(f"the data function {source} failed", why=first_line(error)) from error
    return as_data(made, source)


def as_data(made: Any, source: str = "data") -> Data:
    """Accept `Data`, one dataset, or a (train, valid) pair."""
    if isinstance(made, Data):
        return made
    if isinstance(made, tuple) and len(made) == 2 and all(hasattr(part, "__getitem__") for part in made):
        return Data(made[0], made[1])
    if hasattr(made, "__getitem__") and hasattr(made, "__len__"):
        return Data(made)
    raise UsageError(
        f"{source} returned {type(made).__name__}",
        fix="return actswap.train.Data(train, valid), or a (train, valid) pair",
    )
