"""A described call accepts the same kind of call, and no other."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from actswap.capture.arguments import NUMBER, TENSOR, Arguments, Signature

X = torch.ones(2, 3)


def accepts(described: Arguments, *args: object, **kwargs: object) -> bool:
    return described.accepts(*tree_flatten((args, kwargs)))


def test_tensors_are_free_and_everything_else_is_bound() -> None:
    described = Arguments.of((X, 2.0), {"mode": "same"})
    assert described.leaves == (TENSOR, 2.0, "same")
    assert accepts(described, torch.zeros(5), 2.0, mode="same")
    for args, kwargs in (
        ((X, 3.0), {"mode": "same"}),
        ((X, 2), {"mode": "same"}),  # equal, but of another type
        ((X, 2.0), {"mode": "full"}),
        ((2.0, X), {"mode": "same"}),
        ((X, X), {"mode": "same"}),
        ((X, 2.0), {}),
        ((X, 2.0, None), {"mode": "same"}),
    ):
        assert not accepts(described, *args, **kwargs)


def test_free_numbers_take_any_finite_number_and_no_truth_value() -> None:
    described = Arguments.of((X, 2.0), {}, free_numbers=True)
    assert described.leaves == (TENSOR, NUMBER)
    assert accepts(described, X, 7) and not accepts(described, X, True) and not accepts(described, X, "7")
    leaves, _ = tree_flatten(((X, 7), {}))
    assert described.free(leaves) == leaves


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        return x


def test_spellings_of_one_call_are_one_call() -> None:
    signature = Signature.of(Masked())
    calls = (((X,), {}), ((), {"x": X}), ((X, None), {}), ((X,), {"mask": None, "scale": 1.0}))
    for args, kwargs in calls:
        positional, keywords = signature.normalize(args, kwargs)
        assert len(positional) == 2 and positional[0] is X and positional[1] is None and keywords == {}
    assert signature.normalize((X,), {"scale": 2.0}) == ((X, None), {"scale": 2.0})


def test_a_decorated_forward_is_called_by_the_signature_of_its_wrapper() -> None:
    def wrapped(forward):
        @functools.wraps(forward)
        def wrapper(self, *args, **kwargs):
            return forward(self, *args, **kwargs)

        return wrapper

    class Decorated(nn.Module):
        @wrapped
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return x

    assert Signature.of(Decorated()).normalize((), {"x": X}) == ((), {"x": X})
