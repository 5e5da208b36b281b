"""The grammars of sizes, guards and trees take what torch.export writes, and nothing that runs."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.io.expressions import MAX_DEPTH, MAX_LENGTH, is_guard, is_plain_tree, is_size


class Shaped(nn.Module):
    """Sizes in sums, products, quotients and minima; guards on its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        n, m = x.shape
        y = x.reshape(n * m // 2, 2)[: min(n, 7) + 1]
        return torch.cat([y, y.new_ones(m % 3 + 2, 2)])


def test_what_torch_writes_for_dynamic_shapes_is_known() -> None:
    import sympy

    dims = {0: torch.export.Dim("n", min=4, max=64), 1: 2 * torch.export.Dim("h", min=2, max=32)}
    program = torch.export.export(Shaped(), (torch.randn(6, 4),), dynamic_shapes=({**dims},))
    texts = set()
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, Tensor) else ():
            if isinstance(size, torch.SymInt):
                texts.add(sympy.printing.repr.srepr(size.node.expr))
    assert len(texts) >= 3 and all(map(is_size, texts)), texts


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Integer(-1), Symbol('s0'))",
        "Rational(1, 2)",
        "Pow(Symbol('s0'), Integer(2))",
        "Max(Integer(1), FloorDiv(Symbol('s0'), Integer(2)))",
        "s0",
        "17",
    ],
)
def test_sizes(text: str) -> None:
    assert is_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "__import__('os')",
        "Symbol('s0').__class__",
        "Symbol('__import__')",
        "Pow(Integer(9), Integer(9))",
        "Pow(Symbol('s0'), Integer(5))",
        "Rational(1, 0)",
        "Lambda(Integer(1))",
        "Symbol('s0', commutative=True)",
        "Add(Integer(1)",
        "Integer(1) Integer(2)",
        "1" * 20,
        "Add(" * (MAX_DEPTH + 2) + "Integer(1)" + ")" * (MAX_DEPTH + 2),
        "Add(" + ", ".join(["Integer(1)"] * MAX_LENGTH) + ")",
    ],
)
def test_what_is_no_size(text: str) -> None:
    assert not is_size(text)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("L['x'].size()[0] == 4 and not L['x'].stride()[1] != 1", True),
        ("(L['args'][0].size()[2] + 3) // 2 <= Max(5, L['y'].dim())", True),
        ("-1 < L['x'].storage_offset() % 8", True),
        ("L['x'].data_ptr() == 0", False),
        ("L['x'] == __import__('os')", False),
        ("2 ** 99 > 1", False),
        ("(1 == 1", False),
        ("[x for x in L['x']]", False),
    ],
)
def test_guards(text: str, known: bool) -> None:
    assert is_guard(text) is known


def test_trees_of_plain_containers_only() -> None:
    plain = pytree.treespec_dumps(pytree.tree_flatten(((1, [2]), {"k": {"deep": (3,)}}))[1])
    assert is_plain_tree(plain)
    for kind in ("collections.defaultdict", "torch.Size", "os.environ", None.__class__.__name__):
        assert not is_plain_tree(json.dumps([1, {"type": kind, "context": "null", "children_spec": []}]))


@pytest.mark.parametrize("text", ["", "{", "[1]", "[2, {}]", '[1, {"type": null}]', "[" * 100_000])
def test_what_is_no_tree(text: str) -> None:
    assert not is_plain_tree(text)
