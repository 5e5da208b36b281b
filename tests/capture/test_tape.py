"""The tape as data: who made a value, who reads it, and which calls stand around a call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actswap.capture.observe import observe
from actswap.capture.tape import Op, Ref, Tape, producers_of


def test_references_are_found_at_any_depth_in_order() -> None:
    op = Op(0, "cat", {"tensors": [Ref(3), (Ref(1), {"k": Ref(2)})], "dim": 1, "out": None}, (4,))
    assert list(op.refs()) == [3, 1, 2]


def test_producers_and_consumers_of_values() -> None:
    made = Op(0, "relu", {"input": Ref(0)}, (1,))
    same = Op(1, "to", {"input": Ref(1)}, (1,))  # x.to(x.dtype) is x itself
    read = Op(2, "add", {"input": Ref(1), "other": Ref(1)}, (2,))
    tape = Tape([made, same, read])
    assert tape.producers() == producers_of(tape.ops) == {1: made, 2: read}
    assert tape.consumers() == {0: [made], 1: [same, read, read]}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) + 1


def test_an_observed_run_is_a_tree_of_calls_over_a_list_of_operations() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Inner())
    x = torch.randn(2, 3)
    tape = observe(model, (x,))
    assert [call.name for call in tape.calls] == ["", "0", "1", "1.act"]
    relu = next(op for op in tape.ops if op.name == "relu")
    assert [tape.calls[c].name for c in tape.ancestors(relu.call)] == ["1.act", "1", ""]
    assert [op.index for op in tape.ops] == list(range(len(tape.ops)))
    first, last = tape.calls[2].ops
    assert [op.name for op in tape.ops[first:last]] == ["relu", "add"]
    # Every value that an operation reads was made before it, or is an input or a constant.
    made = set(tape.calls[0].inputs)
    for op in tape.ops:
        assert all(r in made or tape.values[r].constant is not None for r in op.refs())
        made.update(op.outs)
    assert torch.equal(tape.results[0], model(x)) and tape.outputs == tape.ops[-1].outs


def test_an_in_place_operation_makes_a_new_value() -> None:
    class Overwriting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            return F.relu(y, inplace=True) * y

    tape = observe(Overwriting(), (torch.randn(2, 3),))
    add, relu, product = tape.ops
    assert relu.inplace and relu.outs != add.outs and list(product.refs()) == [relu.outs[0]] * 2
