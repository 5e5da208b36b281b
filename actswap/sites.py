"""The basic terms of the project as plain immutable data: `Source`, `Site`, `Start`.

Nothing here imports torch: a site list or a plan can be read, printed and compared without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Number = float | tuple[float, ...]
Progress = Callable[[int, int, str], None]  # called with (steps done, total steps or 0, name of the present step)
STARTS = (
    "auto",
    "exact",
    "limit",
    "fit",
    "morph",
    "none",
)  # what a user may ask for; the start of a site is never `auto`
Role = Literal["activation", "gate"]
Form = Literal["module", "function", "method", "formula"]
How = Literal["swap", "island", "left"]
StartKind = Literal["exact", "limit", "fit", "morph", "none"]


@dataclass(frozen=True)
class Source:
    """The activation that stands at a site: a kind and its parameters.

    Attributes:
        kind: canonical lower-case name (`relu`, `relu6`, `leaky_relu`, `prelu`, `gelu`, `gelu_tanh`, `silu`, ...).
        params: sorted (name, value) pairs; a per-channel value is a tuple of floats. Examples:
            `(("slope", 0.01),)` for leaky_relu, `(("slope", (0.2, 1.3, ...)),)` for prelu,
            `(("high", 1.0), ("low", -1.0))` for hardtanh, `(("beta", 1.5),)` for swish.
        formula: the text of a formula that is no named function: `x * sigmoid(p0 * x + 1)`; `params` holds p0, ...
        trained: (constant, tensor) pairs: which constants are parameters or buffers of the model, with full names.
            Their values in `params` are those at the time of the scan.

    >>> str(Source.of("leaky_relu", slope=0.1))
    'leaky_relu(slope=0.1)'
    >>> str(Source("formula", formula="sin(x) * x"))
    'formula(sin(x) * x)'
    """

    kind: str
    params: tuple[tuple[str, Number], ...] = ()
    formula: str = ""
    trained: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, kind: str, **params: Number) -> Source:
        """Build a source from keyword parameters.

        >>> Source.of("swish", beta=1.5).get("beta")
        1.5
        """
        return cls(kind, tuple(sorted(params.items())))

    def get(self, name: str, default: float = 0.0) -> Number:
        """Return the parameter `name`, or `default`."""
        return dict(self.params).get(name, default)

    def __str__(self) -> str:
        shown = [self.formula] * bool(self.formula)
        shown += [f"{k}={v:g}" if isinstance(v, (int, float)) else f"{k}[{len(v)}]" for k, v in self.params]
        return self.kind + (f"({', '.join(shown)})" if shown else "")


@dataclass(frozen=True)
class Start:
    """How a target begins at a site, and what is known about its error.

    Attributes:
        kind: `exact` (equal to rounding for every input), `limit` (closed-form bound), `fit` (error measured on the
            calibration data), `morph` (exact while t = 0), `none` (does not preserve the function).
        params: values for the parameters and buffers of the target module, by name: a float fills the tensor, a tuple
            is reshaped to it.
        bound: the largest |target - source| over all inputs, if it is known in closed form.
        error: the largest |target - source| measured on the calibration range, for `fit`.
        rms: the root-mean-square error on the calibration data, for `fit`.
        beta: the sharpness a `limit` start was given.
        note: one sentence for the table, if there is something to say.
    """

    kind: StartKind
    params: Mapping[str, Number] = field(default_factory=dict)
    bound: float | None = None
    error: float | None = None
    rms: float | None = None
    beta: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Site:
    """One activation call in one forward pass.

    Attributes:
        name: module name, or calling module plus function; `@k` is added from the second call on: `layer1.0.relu@1`.
        source: the activation that is called.
        role: `activation` or `gate` (its output multiplies something else).
        form: how it is called: `module`, `function`, `method` or `formula`.
        owner: fully qualified name of the innermost module whose forward makes the call ("" is the model itself).
        how: `swap` (a child of the owner is replaced), `island` (the owner's forward is rewritten) or `left`.
        reason: why it is left, "" if it is not.
        shape: the first observed input shape.
        channels: width of the channel axis. None if it is not clear which axis that is; the target then has one set of
            parameters for the layer.
        channel_dim: index of the channel axis, counted from the front for axis 1, from the back (-1) for a last axis.
        calls: how often the site ran in the observed forward pass (a head on several levels runs more than once).
        inplace: the call overwrites its input.
        line: `file:line` of the call in the user's code.
        ordinal: position among the activation calls of the owner's forward.
        child: attribute path of the called module below the owner ("" for functions and formulas).

    >>> site = Site("layer1.0.relu", Source("relu"), "activation", "module", "layer1.0", "swap")
    >>> site.to_dict()["source"]
    {'kind': 'relu'}
    """

    name: str
    source: Source
    role: Role
    form: Form
    owner: str
    how: How
    reason: str = ""
    shape: tuple[int, ...] = ()
    channels: int | None = None
    channel_dim: int = 1
    calls: int = 1
    inplace: bool = False
    line: str = ""
    ordinal: int = 0
    child: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        source: dict[str, Any] = {"kind": self.source.kind, **dict(self.source.params)}
        if self.source.formula:
            source["formula"] = self.source.formula
        if self.source.trained:
            source["trained"] = [list(pair) for pair in self.source.trained]
        return {**asdict(self), "source": source}
