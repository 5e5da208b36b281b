"""Fit the names of saved weights to the names of a network: the prefixes that wrappers add, by rule.

A wrapper (torch.compile, DistributedDataParallel, AveragedModel, a LightningModule, a class of one's own) saves the
weights of the network inside it under a prefix. The rule: names that the wrappers of torch put into the middle
(`_orig_mod`) are dropped; then a prefix is taken off if every name of the network stands in the file under it. So
nothing is guessed from a list of words, and nothing is ever filled in part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from actswap.errors import LoadError

# Names of the modules that wrappers of torch and Lightning put around another; no network calls its layers so.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module")
_SHOWN = 4


@dataclass(frozen=True)
class Fitted:
    """Weights under the names of a network.

    Attributes:
        state: the weights that belong to the network, and those that the network does not know.
        notes: what was done to the names, in words; empty if nothing was.
        beside: names in the file that lie outside the prefix, so that they belong to something else.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def fit_names(state: Mapping[str, Tensor], own: Mapping[str, Any], prefix: str | None, name: str) -> Fitted:
    """Rename the weights of a file after the network that they belong to.

    Args:
        state: the weights of the file.
        own: the parameters and buffers of the network.
        prefix: the prefix that the user gave, None to find it.
        name: the file, for messages.

    Returns:
        The weights. If no prefix fits every name, the one that fits most is taken off, so that a message about what is
        missing is short.

    Raises:
        LoadError: the file holds the network under several prefixes, or nothing under the one that was given.
    """
    plain, dropped = _without_wrappers(state, own)
    notes = (f"names without {', '.join(dropped)}",) if dropped else ()
    if prefix is not None:
        given = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
        return _under(plain, given, notes, name, prefixes_of(plain))
    counts = _counts(plain, own)
    best = max(counts.values(), default=0)
    full = [p for p, n in counts.items() if n == best and n == len(own)]
    if "" in full:
        return Fitted(dict(plain), notes)
    if len(full) > 1 and not _same_values(plain, own, full):
        listed = ", ".join(f"{p!r}" for p in full)
        raise LoadError(
            f"{name} holds the network several times",
            why=f"every name of it stands under {listed}",
            fix=f"say which one is meant: --prefix {full[0]} (in Python: prefix={full[0]!r})",
            add=f"--prefix {full[0]}",
        )
    if full:
        return _under(plain, full[0], notes, name, ())
    inner = _common_prefix(own)
    if inner and counts.get("", 0) < _counts({f"{inner}{k}": v for k, v in plain.items()}, own).get("", 0) == len(own):
        said = (*notes, f"prefix {inner!r} of the network added to every name")
        return Fitted({f"{inner}{k}": v for k, v in plain.items()}, said)
    likely = max(counts, key=lambda p: (counts[p], p == ""), default="")
    if not likely:
        return Fitted(dict(plain), notes)
    return _under(plain, likely, notes, name, ()) if 2 * counts[likely] > len(own) else Fitted(dict(plain), notes)


def fill(
    module: nn.Module, state: Mapping[str, Tensor], prefix: str | None, name: str, spec: str
) -> tuple[nn.Module, tuple[str, ...]]:
    """Write the weights of a file into a network: all of them, or none.

    Args:
        module: the network; tied parameters may be saved once.
        state: the weights.
        prefix: the prefix that the user gave, None to find it.
        name: the file, for messages.
        spec: what built the network, for messages.

    Returns:
        The network in eval mode, and what was done to the names.

    Raises:
        LoadError: a weight is missing, of another shape, or unknown to the network.
    """
    own = module.state_dict()
    fitted = fit_names(state, _needed(own, state), prefix, name)
    problem = misfit(own, fitted.state)
    if problem:
        raise LoadError(f"the weights of {name} do not fit {spec}", why=problem, fix=_how_to_fit(spec, fitted))
    module.load_state_dict(fitted.state, strict=False)
    return module.eval(), fitted.notes


def misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return in words why weights do not fill a network completely, "" if they do.

    A tensor that shares its memory with one that is given needs no entry of its own, and counters of batches none.
    """
    given = {own[name].data_ptr() for name in own if name in state and own[name].numel()}  # tied weights are saved once
    missing = [
        name
        for name in own
        if name not in state and own[name].data_ptr() not in given and not name.endswith("num_batches_tracked")
    ]
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    unexpected = [name for name in state if name not in own]
    rows = [
        f"{label} {few(names)}"
        for label, names in (("missing:", missing), ("not in the model:", unexpected), ("shape:", shapes))
        if names
    ]
    return "; ".join(rows)


def few(names: Collection[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = list(names)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def prefixes_of(state: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the first parts of the names, those of most tensors first."""
    return tuple(p for p, _ in Counter(f"{k.partition('.')[0]}." for k in state if "." in k).most_common())


def _how_to_fit(spec: str, fitted: Fitted) -> str:
    fix = f"name what was saved, with its options: --model '{spec.partition('?')[0]}?num_classes=10'"
    parts = prefixes_of(fitted.state)
    return f"{fix}; or, if the network stands under one of {few(parts)}, --prefix {parts[0]}" if parts else fix


def _needed(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a file must hold: no counters of batches, and tied ones under one of their names."""
    groups: dict[Any, list[str]] = {}
    for name, t in own.items():
        if not name.endswith("num_batches_tracked"):
            groups.setdefault((t.data_ptr(), t.shape) if t.numel() else name, []).append(name)

    def saved(name: str) -> bool:
        return any(k == name or k.endswith(f".{name}") for k in state)

    kept = (next(filter(saved, names), names[0]) if len(names) > 1 else names[0] for names in groups.values())
    return {name: own[name] for name in kept}


def _without_wrappers(state: Mapping[str, Tensor], own: Collection[str]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    dropped = [
        w for w in _WRAPPERS if any(w in k.split(".") for k in state) and not any(w in k.split(".") for k in own)
    ]
    if not dropped:
        return dict(state), ()
    return {".".join(p for p in k.split(".") if p not in dropped): v for k, v in state.items()}, tuple(dropped)


def _counts(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, int]:
    """Return for each prefix how many names of the network stand under it, with their shape."""
    counts: Counter[str] = Counter()
    by_shape: dict[tuple[str, Any], list[str]] = {}
    for name, t in own.items():
        by_shape.setdefault((name.rpartition(".")[2], t.shape), []).append(name)
    for key, t in state.items():
        for name in by_shape.get((key.rpartition(".")[2], t.shape), ()):
            if key == name or key.endswith(f".{name}"):
                counts[key[: len(key) - len(name)]] += 1
    return dict(counts)


def _under(
    state: Mapping[str, Tensor], prefix: str, notes: tuple[str, ...], name: str, known: Collection[str]
) -> Fitted:
    inside = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    if not inside:
        raise LoadError(
            f"{name} holds no weights under the prefix {prefix!r}",
            why=f"its names begin with {few(known)}" if known else f"its names are {few(state)}",
            fix=f"--prefix {next(iter(known))}" if known else "leave out --prefix",
        )
    if not prefix:
        return Fitted(inside, notes)
    beside = tuple(k for k in state if not k.startswith(prefix))
    said = (*notes, f"prefix {prefix!r} taken off")
    if beside:
        said += (f"not under it, so of something else: {few(beside)}",)
    return Fitted(inside, said, beside)


def _common_prefix(own: Collection[str]) -> str:
    """Return the first part of the names of a network, if all have the same: the network is itself a wrapper."""
    parts = {name.partition(".")[0] for name in own}
    return f"{parts.pop()}." if len(parts) == 1 and all("." in name for name in own) else ""


def _same_values(state: Mapping[str, Tensor], own: Collection[str], prefixes: Collection[str]) -> bool:
    """True if the network under several prefixes is one and the same, saved twice."""
    first, *rest = prefixes
    return all(state[f"{first}{n}"].equal(state[f"{p}{n}"]) for p in rest for n in own)
