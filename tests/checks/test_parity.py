"""Parity: how far two outputs are apart for what they vary, and where two models part."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import actswap
from actswap.checks.parity import as_inputs, compare, run, tensors_of, worst
from actswap.errors import UsageError

A = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
VARYING = A - A.mean(0)  # what is left of A when every feature has lost its mean over the samples
DEGREES = (4 / 3) ** 0.5  # which takes one of four degrees of freedom


def test_equal_outputs() -> None:
    parity = compare([A], [A.clone()])
    assert (parity.max_abs, parity.rel, parity.top1_agreement, parity.outputs) == (0.0, 0.0, 1.0, 1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_relative_error_does_not_depend_on_the_scale(scale: float) -> None:
    parity = compare([A * scale], [A * scale * 1.01])
    assert parity.rel == pytest.approx(float(0.01 * A.norm() / VARYING.norm() / DEGREES), rel=1e-3)
    assert parity.rel_to_size == pytest.approx(0.01, rel=1e-4)
    assert parity.max_abs == pytest.approx(0.01 * scale * float(A.abs().max()), rel=1e-4)


def test_the_worse_norm_counts() -> None:
    b = A.clone()
    b[0, 0] += VARYING.abs().max() * DEGREES  # 1 in the maximum norm
    assert compare([A], [b]).rel == pytest.approx(1.0)
    assert compare([A], [b]).rel_to_size == pytest.approx(float(VARYING.abs().max() * DEGREES / A.abs().max()))
    b = A + VARYING.abs().max() / 100 * torch.sign(A)
    expected = float((b - A).norm() / VARYING.norm() / DEGREES)
    assert compare([A], [b]).rel == pytest.approx(expected, rel=1e-5) and expected > 0.01


def test_the_worst_output_counts() -> None:
    assert compare([A, A], [A, A * 1.5]).rel == compare([A], [A * 1.5]).rel > 0.4
    assert compare([A, A], [A, A]).outputs == 2


def test_top1_agreement() -> None:
    b = A.clone()
    b[0] = b[0].flip(0)
    assert compare([A], [b]).top1_agreement == 0.75 or int(A[0].argmax()) == 2
    assert compare([A[:, :1]], [A[:, :1]]).top1_agreement is None
    assert compare([A.reshape(-1)], [A.reshape(-1)]).top1_agreement is None


@pytest.mark.parametrize(
    "other", [[], [A, A], [A[:2]], [A.reshape(5, 4)]], ids=["none", "two", "fewer rows", "other shape"]
)
def test_outputs_of_another_structure_are_infinitely_apart(other: list[Tensor]) -> None:
    assert compare([A], other).rel == float("inf")


def test_nan_and_infinity() -> None:
    a, b = A.clone(), A.clone()
    a[0, 0] = b[0, 0] = float("nan")
    a[1, 1] = b[1, 1] = float("inf")
    assert compare([a], [b]).rel == 0.0
    assert compare([A], [b]).rel == float("inf")
    assert compare([b], [A]).rel == float("inf")
    b[1, 1] = -float("inf")
    assert compare([a], [b]).rel == float("inf")


def test_zeros_empty_integers_and_truth_values() -> None:
    zero = torch.zeros(3)
    assert compare([zero], [zero]).rel == 0.0
    assert compare([zero], [zero + 0.1]).rel == pytest.approx(0.1 * 3**0.5)
    assert compare([torch.zeros(0, 4)], [torch.zeros(0, 4)]).rel == 0.0
    ids = torch.arange(10)
    assert compare([ids], [ids]).rel == 0.0
    assert compare([ids], [ids.flip(0)]).rel == 1.0
    assert compare([ids > 4], [ids > 5]).rel == pytest.approx(0.1)


def test_half_types_are_compared_in_double() -> None:
    big = torch.full((4,), 60000.0, dtype=torch.float16)
    assert compare([big], [-big]).rel == pytest.approx(2.0)
    rounded = compare([A], [A.bfloat16()])
    assert 0 < rounded.rel_to_size <= 2**-8, "half an eps, of a number up to twice its power of two"
    assert 0 < compare([A.bfloat16()], [A]).rel <= compare([A.bfloat16()], [A]).rounding


def test_complex_outputs() -> None:
    a = torch.view_as_complex(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    assert compare([a], [a]).rel == 0.0
    assert compare([a], [a * 1.1]).rel_to_size == pytest.approx(0.1, rel=1e-4)
    assert compare([a], [a * 1j]).rel > 0.5


def test_worst_takes_the_largest_errors_and_the_lowest_agreement() -> None:
    parity = worst([compare([A], [A * 1.1]), compare([A], [A * 1.2]), compare([A], [-A])])
    assert parity.rel == compare([A], [-A]).rel and parity.rel_to_size == pytest.approx(2.0)
    assert parity.top1_agreement is not None and parity.top1_agreement < 1


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    loss: None = None


def test_tensors_of_nested_outputs() -> None:
    found = list(tensors_of({"a": A, "b": [Output(A + 1, (A + 2, A + 3)), "text", 3]}))
    assert [float((t - A).mean().round()) for t in found] == [0.0, 1.0, 2.0, 3.0]


def test_as_inputs() -> None:
    assert as_inputs(A) == ((A,), {})
    assert as_inputs((1, 2), {"k": 3}) == ((1, 2), {"k": 3})
    assert as_inputs({"x": 1}, {"k": 3}) == ((), {"x": 1, "k": 3})
    assert as_inputs(None, {"k": 3}) == ((), {"k": 3})
    assert as_inputs([1, 2]) == (([1, 2],), {})


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Dropout()), nn.Linear(5, 3))


def test_verify_names_the_first_module_that_differs() -> None:
    a, b = model(), model()
    assert actswap.verify(a, b, A).first_divergent_site is None
    with torch.no_grad():
        b[1][0].bias.add_(1.0)
    parity = actswap.verify(a, b, A)
    assert parity.rel > 1e-3
    assert parity.first_divergent_site == "1.0"


def test_verify_runs_in_eval_mode_and_keeps_the_mode() -> None:
    a, b = model().train(), model().train()
    b[1].eval()
    assert actswap.verify(a, b, A).rel == 0.0, "dropout is off"
    assert a.training and a[1].training and b.training and not b[1].training
    assert not any(m._forward_hooks for m in (*a.modules(), *b.modules()))


def test_verify_says_which_model_does_not_run() -> None:
    with pytest.raises(UsageError, match="the second model does not run") as caught:
        actswap.verify(model(), nn.Linear(7, 3), A)
    assert caught.value.fix


def test_run_copies_what_it_returns() -> None:
    out = run(nn.Identity(), (A,))[0]
    out.zero_()
    assert A.abs().max() > 0
