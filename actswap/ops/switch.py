"""The switch that says who computes the operators."""

from __future__ import annotations

from types import TracebackType

from actswap.errors import UsageError

BACKENDS = ("auto", "reference", "native", "triton")

_current = "auto"


class backend:  # noqa: N801 - reads as a function: `backend("native")`, `with backend("native"):`
    """Choose who computes the operators, for the process or for a `with` block.

    Args:
        name: `auto` takes a kernel if one fits, else the formula; `reference` always the formula; `native` and
            `triton` only that kernel, and it is an error if it does not fit the call.

    Raises:
        UsageError: the name is not one of these.

    >>> with backend("reference"):
    ...     current_backend()
    'reference'
    >>> current_backend()
    'auto'
    """

    def __init__(self, name: str) -> None:
        global _current
        if name not in BACKENDS:
            raise UsageError(f"backend {name!r}", why=f"known: {', '.join(BACKENDS)}", fix='backend("auto")')
        self._before, _current = _current, name

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _current
        _current = self._before


def current_backend() -> str:
    """Return the name of the backend in force."""
    return _current
