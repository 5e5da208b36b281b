"""Which parameters of the model may go with an activation: the one rule about constants that the model trains.

A formula may hold parameters or buffers of the model: `x * sigmoid(self.beta * x)`, `maximum(x, self.a * x)`,
`relu(x) * self.gain`, `x.clamp(min=self.low)`. None of them is ever folded into a number, whatever its value:

1. A scale or bias around an activation (`relu(x) * self.gain`) is not part of it: it stays where it stands.
2. If a module is the activation and nothing else (PReLU, a Swish with its beta), its parameters go with it: the user
   replaces this activation, and the target starts at their values and trains its own.
3. A parameter that a formula cannot do without, but which the owner or somebody else holds, would stay in the state
   dict and never be read again; so would that of a module which is called in several places. No target trains the
   bound of a cap. Such a site is left.
"""

from __future__ import annotations

from actswap.sites import Source

_CAPS = ("hardtanh", "relu6", "threshold", "hardshrink", "softshrink")


def stays(source: Source, module: str | None, shared: bool = False) -> str:
    """Return why a site is left because of what it trains, "" if it need not be.

    Args:
        source: what stands there; its `trained` has the full names of the parameters and buffers.
        module: full name of the module that is the activation and nothing else, None if there is none.
        shared: the module is called in several places, each of which would get a target of its own.

    Examples:
        >>> swish = Source("swish", (("beta", 1.5),), trained=(("beta", "block.beta"),))
        >>> stays(swish, "block")
        ''
        >>> stays(swish, None)
        'its beta is block.beta of the model, which would be neither read nor trained any more'
    """
    for constant, name in source.trained:
        held = module is not None and (not module or name.startswith(f"{module}."))
        if not held:
            return f"its {constant} is {name} of the model, which would be neither read nor trained any more"
        if shared:
            return f"its {constant} is {name} of the model, which several calls share"
        if source.kind in _CAPS:
            return f"its {constant} is {name} of the model, and no target trains a bound"
    return ""
