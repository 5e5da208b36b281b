"""What the options of an activation may be, and the sentence that says so when one is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from actswap.errors import UsageError

_WIDEST = 1 << 16  # of what is counted: hidden units, ratios; more only fills the memory
_LARGEST = 3.4e38  # what float32 holds


@dataclass(frozen=True)
class OneOf:
    """One of a few words."""

    words: tuple[str, ...]

    def accepts(self, value: Any) -> bool:
        """True if value is one of the words."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


@dataclass(frozen=True)
class Flag:
    """True or false; `None` too if `optional`."""

    optional: bool = False

    def accepts(self, value: Any) -> bool:
        """True if value is a bool."""
        return isinstance(value, bool) or (value is None and self.optional)

    def __str__(self) -> str:
        return "true or false" + (", or none" if self.optional else "")


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`; `None` too if `optional`."""

    low: int = 1
    high: int = _WIDEST
    optional: bool = False

    def accepts(self, value: Any) -> bool:
        """True if value is an int in the range."""
        if value is None:
            return self.optional
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}" + (", or none" if self.optional else "")


@dataclass(frozen=True)
class Real:
    """A finite number, from `low` on, or above it if `above`; not `other_than`."""

    low: float | None = None
    above: bool = False
    other_than: float | None = None

    def accepts(self, value: Any) -> bool:
        """True if value is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= _LARGEST:
            return False
        if value == self.other_than:
            return False
        return self.low is None or (value > self.low if self.above else value >= self.low)

    def __str__(self) -> str:
        text = "a finite number"
        if self.low is not None:
            text += f" above {self.low:g}" if self.above else f" from {self.low:g} on"
        return text + ("" if self.other_than is None else f" other than {self.other_than:g}")


@dataclass(frozen=True)
class Pair:
    """Two whole numbers from 1 to `high`."""

    high: int = 32

    def accepts(self, value: Any) -> bool:
        """True if value is a pair of ints in the range."""
        number = Whole(1, self.high)
        return isinstance(value, (tuple, list)) and len(value) == 2 and all(number.accepts(v) for v in value)

    def __str__(self) -> str:
        return f"two whole numbers from 1 to {self.high}, such as 5,4"


@dataclass(frozen=True)
class Numbers:
    """A list of finite numbers, or `None`."""

    def accepts(self, value: Any) -> bool:
        """True if value is a sequence of numbers, or None."""
        if value is None:
            return True
        return isinstance(value, Sequence) and not isinstance(value, str) and all(Real().accepts(v) for v in value)

    def __str__(self) -> str:
        return "a list of numbers, or none"


class Rule(Protocol):
    """What an option may be; as a string it completes "beta is ..."."""

    def accepts(self, value: Any) -> bool:
        """True if the option may have this value."""


def check(name: str, rules: Mapping[str, Rule], options: Mapping[str, Any]) -> None:
    """Raise UsageError for the first option whose value its rule does not accept.

    Args:
        name: of the activation, for the message.
        rules: rule by option; options without one are not checked.
        options: value by option.

    >>> check("acon_c", {"beta": Real()}, {"beta": 2.0})
    """
    for option, value in options.items():
        rule = rules.get(option)
        if rule is not None and not rule.accepts(value):
            shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
            raise UsageError(
                f"{name} cannot have {option}={shown}", why=f"{option} is {rule}", fix="actswap list shows the defaults"
            )
