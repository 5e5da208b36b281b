"""What a trained unit is, in numbers: derivative bounds of the ACON family, coefficients and poles of Padé units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from actswap.activations.acon_b import AconB
from actswap.activations.acon_c import AconC
from actswap.activations.bounded import Bounded
from actswap.activations.meta_acon import MetaAcon
from actswap.activations.morph import Morph
from actswap.activations.opau import OPAU
from actswap.activations.pau import PAU
from actswap.activations.rational import RationalActivation
from actswap.activations.swish import Swish

# max of g(z) = s + z s (1 - s), s = sigmoid(z), and where it is; g(-z) = 1 - g(z).
STEEPEST, STEEPEST_AT = 1.0998393194, 2.3993572805


def derivative_bounds(p1: float, p2: float, beta: float) -> tuple[float, float]:
    """The smallest and the largest slope of ACON-C (Ma et al. 2021, section 3.2).

    f'(x) = (p1 - p2) g(z) + p2 with z = beta (p1 - p2) x, and g runs from -0.0998 to 1.0998. So p1 and p2 alone set the
    bounds; beta sets how far from 0 they are reached, at |x| = 2.3994 / |beta (p1 - p2)|. With beta = 0 the unit is the
    line (p1 + p2) / 2.

    Args:
        p1: slope of the first line.
        p2: slope of the second line.
        beta: sharpness, of either sign.

    Returns:
        (smallest, largest).

    >>> tuple(round(bound, 4) for bound in derivative_bounds(1.0, 0.0, 5.0))
    (-0.0998, 1.0998)
    >>> derivative_bounds(1.0, 0.5, 0.0)
    (0.75, 0.75)
    """
    if beta == 0:
        return (p1 + p2) / 2, (p1 + p2) / 2
    low, high = min(p1, p2), max(p1, p2)
    return low - (STEEPEST - 1) * (high - low), low + STEEPEST * (high - low)


@torch.no_grad()
def describe(module: nn.Module) -> dict[str, Any]:
    """Describe a unit as plain JSON data; empty for one about which there is nothing to say.

    Args:
        module: a target, inside `Morph` or `Bounded` or not.

    Returns:
        ACON family: `derivative`, the smallest and the largest slope over all channels at fixed beta, and `beta` and
        `slopes`, the ranges of beta and of p1 and p2. Padé units: `numerator` and `denominator` by channel, as in the
        paper, with `scale`, `range`, `form` and `basis`, `frozen`, how many coordinates of each channel do not train,
        and `poles` in x by channel.

    >>> from actswap.nn import AconC
    >>> [round(bound, 2) for bound in describe(AconC(4))["derivative"]]
    [-0.1, 1.1]
    """
    while isinstance(module, (Morph, Bounded)):
        module = module.target if isinstance(module, Morph) else module.inner
    if isinstance(module, RationalActivation):
        top, bottom = module.coefficients()
        return {
            "numerator": _rows(top),
            "denominator": _rows(bottom),
            "frozen": _frozen(module.mix),
            **_frame(module.current_tails()),
            **dict(zip(("basis", "form"), module.basis_and_form, strict=True)),
            "poles": [list(p) for p in module.poles()] if isinstance(module, (PAU, OPAU)) else [],
        }
    found = _lines(module)
    if found is None:
        return {}
    p1, p2, beta = (t.double().flatten().tolist() for t in torch.broadcast_tensors(*found))  # type: ignore[no-untyped-call]
    bounds = [derivative_bounds(*each) for each in zip(p1, p2, beta, strict=True)]
    return {
        "derivative": [min(low for low, _ in bounds), max(high for _, high in bounds)],
        "slopes": [min(p1 + p2), max(p1 + p2)],
        "beta": [min(beta), max(beta)],
    }


def _frozen(mix: Tensor) -> list[int]:
    """The number of coordinates by channel that move no coefficient (`actswap.fit.coordinates`)."""
    still = mix.eq(0.0).all(dim=-2).sum(dim=-1)
    return [int(count) for count in still.reshape(-1).tolist()]


def describe_state(state: Mapping[str, Tensor], prefix: str, degrees: tuple[int, int]) -> dict[str, Any]:
    """Describe a Padé unit from a state dict alone: the paper's coefficients, the scale and the range.

    Args:
        state: tensors by name.
        prefix: of the unit, with the dot.
        degrees: of numerator and denominator.

    Returns:
        Empty if there is no Padé unit.
    """
    if prefix + "coordinates" not in state:
        return {}
    u, centre, mix, radius = (state[prefix + name] for name in ("coordinates", "centre", "mix", "radius"))
    v = centre + (mix @ torch.asinh(u / radius).unsqueeze(-1)).squeeze(-1)
    top = degrees[0] + 1
    return {
        "numerator": _rows(v[..., :top]),
        "denominator": _rows(v[..., top:]),
        "frozen": _frozen(mix),
        **_frame(state[prefix + "tails"]),
    }


def sentence(unit: Mapping[str, Any]) -> str:
    """One line about a description, for a table."""
    if "derivative" in unit:
        low, high = unit["derivative"]
        return f"slope from {low:.4g} to {high:.4g}"
    if "numerator" not in unit:
        return ""
    numbers = ("[" + ", ".join(f"{v:.4g}" for v in unit[part][0]) + "]" for part in ("numerator", "denominator"))
    text = "numerator {}, denominator {}".format(*numbers) + f", s = {unit['scale'][0]:.4g}"
    if len(unit["numerator"]) > 1:
        text += f" (first of {len(unit['numerator'])} channels)"
    if frozen := max(unit.get("frozen", [0])):
        text += f"; {frozen} of {sum(len(unit[p][0]) for p in ('numerator', 'denominator'))} coordinates do not train"
    poles = sorted({round(p, 4) for row in unit.get("poles", []) for p in row})
    return text + (f"; poles at x = {', '.join(f'{p:g}' for p in poles[:8])}" if poles else "; no poles")


def _rows(coefficients: Tensor) -> list[list[float]]:
    return [[float(v) for v in row] for row in coefficients.double().reshape(-1, coefficients.shape[-1]).tolist()]


def _frame(tails: Tensor) -> dict[str, Any]:
    """Scale and range by channel; an endless range is None, which JSON can hold."""
    rows = tails.double().reshape(-1, 5)
    bounded = bool(torch.isfinite(rows[:, 1:3]).all())
    return {"scale": rows[:, 0].tolist(), "range": rows[:, 1:3].tolist() if bounded else None}


def _lines(module: nn.Module) -> tuple[Tensor, Tensor, Tensor] | None:
    """p1, p2 and beta of a member of the ACON family; beta is a bound of it in meta-ACON."""
    one = torch.ones(1)
    if isinstance(module, AconC):
        return module.p1.cpu(), module.p2.cpu(), module.beta.cpu()
    if isinstance(module, MetaAcon):
        return module.p1.cpu(), module.p2.cpu(), module.scale.cpu()
    if isinstance(module, AconB):
        return one, module.p.cpu(), module.beta.cpu()
    if isinstance(module, Swish):
        return one, torch.zeros(1), module.beta.cpu()
    return None
