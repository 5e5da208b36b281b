"""Find where the network of a bundle stands in a model that has a wrapper more, or less, than the one that was saved.

A bundle of a LightningModule loads on the bare network, a bundle of the network on the LightningModule, and one that
was saved without `torch.compile` or FSDP on a model with it. Names decide, and shapes: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from actswap.capture.wrappers import common_prefixes, network_in, without_wrappers
from actswap.errors import LoadError
from actswap.plan import Plan, keys_of
from actswap.sites import Site


@dataclass(frozen=True)
class Place:
    """Where the network of a bundle stands.

    Attributes:
        name: its name in the model that is loaded onto, "" for the model itself.
        prefix: what its names in the bundle begin with, e.g. `model.` if a LightningModule was converted.
    """

    name: str = ""
    prefix: str = ""


def place_of(model: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]) -> Place | None:
    """Find the network that a plan was made for in a model.

    Args:
        model: the model to load onto, without the wrappers around it.
        plan: the plan of the bundle.
        tensors: the tensors of the bundle.

    Returns:
        Its place, None if nothing has to be renamed or nothing fits: the usual message says then what does not.

    Raises:
        LoadError: it fits several networks in the model.
    """
    targets = tuple(_paths(plan))
    here = {without_wrappers(k): v for k, v in tensors.items()}
    if _first(plan).keys == keys_of(model):
        return None if here.keys() == tensors.keys() else Place()
    for prefix in ("", *common_prefixes(map(without_wrappers, targets))):
        if _fits(model, prefix, here, targets):
            return Place("", prefix)
    inside = [n for n, m in model.named_modules() if n and network_in(m) is m and _fits(m, "", here, targets)]
    outer = [n for n in inside if not any(n.startswith(f"{other}.") for other in inside)]
    if len(outer) > 1:
        raise LoadError(
            f"the bundle fits {len(outer)} networks in this {type(model).__name__}: {', '.join(outer)}",
            fix=f"load it onto one of them: actswap.load(bundle, model.{outer[0]})",
        )
    return Place(outer[0]) if outer else None


def renamed(plan: Plan, place: Place, network: nn.Module) -> Plan:
    """Return the plan with the names that its modules have in a network, and with the digest of that network's keys."""
    real: dict[str, str] = {without_wrappers(name): name for name, _ in network.named_modules()}

    def rename(path: str) -> str:
        clean = f"{without_wrappers(path)}.".removeprefix(place.prefix).rstrip(".")
        parent, _, child = clean.rpartition(".")
        if clean in real:
            return real[clean]
        return f"{real[parent]}.{child}" if real.get(parent) else clean

    keys = keys_of(network)

    def change(one: Plan) -> Plan:
        return replace(
            one,
            keys=keys if one.before is None else one.keys,
            choices=tuple(replace(c, site=_moved(c.site, rename), path=rename(c.path)) for c in one.choices),
            left=tuple((_moved(site, rename), reason) for site, reason in one.left),
            islands=tuple(replace(i, owner=rename(i.owner)) for i in one.islands),
            before=None if one.before is None else change(one.before),
        )

    return change(plan)


def tensors_for(model: nn.Module, place: Place, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a bundle that belong to a converted network, under the names that they have there."""
    real = {without_wrappers(name): name for name in model.state_dict(keep_vars=True)}
    ours = {without_wrappers(n): t for n, t in tensors.items()}
    ours = {n.removeprefix(place.prefix): t for n, t in ours.items() if n.startswith(place.prefix)}
    return {real.get(name, name): tensor for name, tensor in ours.items()}


def _moved(site: Site, rename: Callable[[str], str]) -> Site:
    trained = tuple((constant, rename(name)) for constant, name in site.source.trained)
    name = rename(site.name)
    return replace(site, name=name, owner=rename(site.owner), source=replace(site.source, trained=trained))


def _first(plan: Plan) -> Plan:
    return plan if plan.before is None else _first(plan.before)


def _paths(plan: Plan) -> Iterator[str]:
    """Yield the names of everything that a plan changes."""
    yield from (choice.path for choice in plan.choices)
    yield from (f"{island.owner}.forward".lstrip(".") for island in plan.islands)
    if plan.before is not None:
        yield from _paths(plan.before)


def _fits(network: nn.Module, prefix: str, tensors: Mapping[str, Tensor], targets: tuple[str, ...]) -> bool:
    """Return whether a bundle holds every weight of a network, in its shape, and no other below the prefix.

    What stands at a target may differ: a replaced PReLU has lost its slopes, and its target has other weights.
    """
    changed = tuple(f"{without_wrappers(target)}." for target in targets)
    own = {prefix + without_wrappers(k): v for k, v in network.state_dict(keep_vars=True).items()}
    if not own or not all(f"{target}".startswith(prefix) for target in changed):
        return False
    held = {k: v for k, v in tensors.items() if k.startswith(prefix) and not k.startswith(changed)}
    wanted = {k: v for k, v in own.items() if not k.startswith(changed)}
    return held.keys() == wanted.keys() and all(held[k].shape == wanted[k].shape for k in held)
