"""Build a model without weights from a text: `torchvision:NAME`, `timm:NAME` or `package.module:factory`.

A text that the user types may name anything. A text that stands in a file (the base of a bundle, the source of a
recipe) comes from whoever wrote the file: `check_library_source` accepts only names of torchvision and timm with
options that are numbers, and nothing that would fetch or open a file. Code of other packages needs the user's word
(`--allow`).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from actswap.capture.quiet import quiet
from actswap.errors import LoadError, first_line
from actswap.io.torchvision_import import import_library, with_torchvision

LIBRARIES = ("torchvision", "timm")
_EXAMPLES = "--model torchvision:resnet50, timm:NAME or package.module:factory"
_NAME = re.compile(r"[A-Za-z0-9_][\w.\-]{0,99}")
# Options that only size a network. Options that name weights, files, folders, addresses or classes are left out.
SIZE_OPTIONS = frozenset(
    (
        *("num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate", "drop_block_rate", "global_pool"),
        *("aux_logits", "init_weights", "transform_input", "width_mult", "dropout", "stochastic_depth_prob"),
        *("output_stride", "aux_loss", "norm_eps", "patch_size", "class_token", "num_keypoints"),
    )
)
_LARGEST_OPTION = 1 << 16


def is_library_source(text: str) -> bool:
    """Return True for `torchvision:...` and `timm:...`, which name a network of that library."""
    return text.partition(":")[0] in LIBRARIES


def check_library_source(text: str, where: str) -> str:
    """Return a `torchvision:NAME` or `timm:NAME` text of a file unchanged.

    Args:
        text: the text.
        where: the place of the text, for the message.

    Raises:
        LoadError: it names something else, or an option that does not only size the network.
    """
    place, _, rest = text.partition(":")
    name, _, query = rest.partition("?")
    known = place in LIBRARIES and _NAME.fullmatch(name)
    wrong = "" if known else f"{text[:80]!r} is no network of torchvision or timm"
    for part in query.split("&") if query else ():
        key, value = _option(part)
        number = isinstance(value, (bool, int, float, type(None))) and not (
            isinstance(value, int) and abs(value) > _LARGEST_OPTION
        )
        if key not in SIZE_OPTIONS or not (number or (isinstance(value, str) and re.fullmatch(r"\w{0,32}", value))):
            wrong = wrong or f"the option {part[:60]!r} does more than size the network"
    if wrong:
        raise LoadError(
            f"{where} is refused: {wrong}",
            why="the text stands in a file, so whoever wrote the file chose it",
            fix=f"if you trust it, give it yourself: --model {text[:80]!r}",
        )
    return text


_lock = threading.RLock()
_added: Counter[str] = Counter()  # folders put on sys.path, by the number of blocks that need them


def build_model(spec: str) -> nn.Module:
    """Build a model without weights.

    Args:
        spec: `torchvision:NAME`, `timm:NAME` or `package.module:factory`; options follow a question mark, as in
            `timm:resnet18?num_classes=10&in_chans=1`.

    Returns:
        The model, in the mode that its factory left it in.

    Raises:
        LoadError: the library or the name does not exist, or the factory fails.
    """
    place, _, rest = spec.partition(":")
    name, _, query = rest.partition("?")
    if not place or not name:
        raise LoadError(f"--model {spec!r} is not understood", fix=_EXAMPLES)
    options = dict(_option(part) for part in query.split("&") if part)
    try:
        with from_current_folder(), quiet():
            if place == "torchvision":
                built = _of_torchvision(name, options)
            elif place == "timm":
                built = import_library("timm").create_model(name, **{"pretrained": False, **options})
            else:
                built = with_torchvision(lambda: getattr(importlib.import_module(place), name)(**options))
    except Exception as problem:  # a factory is the user's code and may raise anything
        raise LoadError(
            f"--model {spec} cannot be built", why=first_line(problem), fix=f"check the spelling: {_EXAMPLES}"
        ) from problem
    if not isinstance(built, nn.Module):
        raise LoadError(f"--model {spec} gave a {type(built).__name__}, not an nn.Module", fix=_EXAMPLES)
    return built


def _of_torchvision(name: str, options: dict[str, Any]) -> Any:
    """Build without weights. By default, detection and segmentation networks would fetch those of their backbone."""
    models = import_library("torchvision.models")
    without = {"weights": None}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        without["weights_backbone"] = None
    return models.get_model(name, **{**without, **options})


def _option(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, ast.literal_eval(value) if len(value) < 1000 else value
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return key, value


@contextmanager
def from_current_folder() -> Iterator[None]:
    """Let `--model` and `--allow` find modules of the current folder, as `python -c` would.

    Threads may overlap: the last one takes the folder off the path again.
    """
    here = os.getcwd()
    with _lock:
        ours = _added[here] > 0 or not (here in sys.path or "" in sys.path)
        if ours and not _added[here]:
            sys.path.insert(0, here)
        _added[here] += ours
    try:
        yield
    finally:
        with _lock:
            _added[here] -= ours
            if ours and not _added[here] and here in sys.path:
                sys.path.remove(here)
