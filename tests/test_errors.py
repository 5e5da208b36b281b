"""Every error says what, where, why and what to do, and has the exit code of its kind."""

import pytest

from actswap import errors
from actswap.errors import ActswapError, first_line

# As in the help of the command line: 1 verification failed, 2 usage, 3 not loaded or captured, 4 export or runtime.
CODES = {
    "UsageError": 2, "SelectionError": 2, "StartError": 2, "FileError": 2, "VerificationError": 1,
    "DivergenceError": 1, "LoadError": 3, "CaptureError": 3, "ExportError": 4,
}  # fmt: skip


def test_exit_codes_are_those_of_the_help():
    kinds = {k: v for k, v in vars(errors).items() if isinstance(v, type) and issubclass(v, ActswapError)}
    del kinds["ActswapError"]
    assert {name: kind.exit_code for name, kind in kinds.items()} == CODES


def test_a_message_has_a_line_for_each_part_that_is_given():
    assert str(ActswapError("it failed")) == "it failed"
    error = ActswapError("it failed", where="layer1", why="too large", fix="--smaller")
    assert str(error) == "it failed\n  where: layer1\n  why: too large\n  try: --smaller"
    assert (error.what, error.where, error.why, error.fix) == ("it failed", "layer1", "too large", "--smaller")


@pytest.mark.parametrize("problem", [ValueError(), ValueError(""), ValueError("\n"), KeyError("k"), AssertionError()])
def test_the_first_line_of_an_exception_is_never_empty(problem):
    assert first_line(problem).strip() and "\n" not in first_line(problem)


def test_the_first_line_is_the_first_one():
    assert first_line(ValueError("first\nsecond")).endswith("first")


def test_a_long_first_line_ends_at_a_word():
    text = first_line(ValueError("word " * 100), limit=50)
    assert text == "ValueError: word word word word word word ..." and len(text) <= 50
