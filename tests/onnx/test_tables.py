"""Tables of 256 entries: each is the float64 result, rounded once; what cannot be one is named."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from actswap.activations import SPECS
from actswap.activations.acon_c import acon_c_formula
from actswap.activations.opau import opau_formula
from actswap.activations.pau import pau_formula
from actswap.activations.swish import swish_formula
from actswap.onnx.export import export_onnx
from actswap.onnx.finalize import body
from actswap.onnx.functions import ACON_C, lower
from actswap.onnx.quantize import quantize
from actswap.onnx.runtime import cpu_session
from actswap.onnx.tables import entries

C = 5


def arrays(**shapes):
    random = np.random.default_rng(0)
    return {name: random.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}


TAILS = np.array([2.0, -3.0, 4.0, 0.1, 1.2], np.float32)
CASES = {
    "acon_c": (acon_c_formula, arrays(p1=C, p2=C, beta=C), {}),
    "acon_c of a layer": (acon_c_formula, arrays(p1=1, p2=1, beta=1), {}),
    "swish": (swish_formula, arrays(beta=C), {}),
    "pau": (pau_formula, {**arrays(a=(C, 6), b=(C, 4)), "tails": np.tile(TAILS, (C, 1))}, {"form": "A"}),
    "pau of a layer": (pau_formula, {**arrays(a=6, b=4), "tails": TAILS}, {"form": "B"}),
    "opau": (opau_formula, {**arrays(c=(C, 6), d=(C, 4)), "tails": np.tile(TAILS, (C, 1))},
             {"basis": "hermite_prob", "safe": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("before", "after"), [(np.uint8(131), np.uint8(7)), (np.int8(-5), np.int8(100))])
def test_every_entry_is_the_rounded_float64_result(case, before, after):
    formula, tensors, options = CASES[case]
    lowered = lower(case.split()[0], tensors, {**options, "dim": 1}, 4)
    step_in, step_out = np.float32(0.037), np.float32(0.011)
    table, rank = entries(
        body(lowered.function, 18), list(lowered.inputs), (step_in, np.asarray(before)), (step_out, np.asarray(after))
    )
    codes = np.arange(np.iinfo(before.dtype).min, np.iinfo(before.dtype).max + 1)
    x = torch.from_numpy((codes - int(before)) * np.float64(step_in)).reshape(256, 1, 1, 1).expand(256, C, 1, 1)
    given = {name: torch.from_numpy(array).double() for name, array in tensors.items()}
    real = formula(x, *given.values(), *options.values(), 1).reshape(256, C).T.numpy() / np.float64(step_out)
    ends = np.iinfo(after.dtype)
    want = np.clip(np.rint(real) + int(after), ends.min, ends.max).astype(after.dtype)
    assert rank == (3 if len(table) > 1 else 0) and table.dtype == after.dtype
    # Where the float64 result lies between two integers to its last bits, either is the rounded one.
    sure = np.abs(real - np.floor(real) - 0.5) > 1e-9
    assert sure.mean() > 0.99 and len(table) in (1, C)
    np.testing.assert_array_equal(np.broadcast_to(table, want.shape)[sure], want[sure])


def test_a_result_that_is_not_quantised_stays_in_float32():
    lowered = lower("acon_c", arrays(p1=1, p2=1, beta=1), {"dim": 1}, 4)
    table, _ = entries(body(ACON_C, 18), list(lowered.inputs), (np.float32(0.1), np.asarray(np.uint8(3))), None)
    assert table.dtype == np.float32 and table[0, 3] == 0


def net(names):
    """A residual network: one activation is read twice, the last one is not quantised after."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3 if not k else C, C, 3, padding=1) for k in range(len(names)))
            self.acts = nn.ModuleList(SPECS[name].build(C, 1) for name in names)
            self.head = nn.Linear(C, 4)

        def forward(self, x):
            for k, (conv, act) in enumerate(zip(self.convs, self.acts, strict=True)):
                x = act(conv(x)) + (x if k else 0)
            return self.head(x.mean((2, 3)))

    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("names", [("acon_c", "swish", "pau"), ("meta_acon", "acon_c", "hp1")])
def test_tables_compute_what_the_quantised_file_does_without_them(names, tmp_path, monkeypatch):
    model, x = net(names), torch.randn(6, 3, 8, 8)
    export_onnx(model, x, tmp_path / "m.onnx", simplify=False, dynamic_size=False)
    feeds = [{"x": x.numpy()}]
    report = quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", feeds, per_channel=True)
    gates = [name for name in names if name == "meta_acon"]
    assert len(report.tables) == len(names) - len(gates) and len(report.left) == len(gates)
    assert all("gate" in reason for reason in report.left.values())
    made = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node if node.domain == "actswap"] == ["MetaAcon"] * len(gates)
    monkeypatch.setattr("actswap.onnx.quantize.write_tables", lambda model: ([], {}))
    quantize(tmp_path / "m.onnx", tmp_path / "f.onnx", feeds, per_channel=True)
    got, want = (cpu_session(tmp_path / f"{name}.onnx").run(None, feeds[0])[0] for name in "qf")
    # A float32 result may round to the next of 255 steps, in each of the layers.
    np.testing.assert_allclose(got, want, rtol=0, atol=len(names) / 255 * np.ptp(want))
    assert report.parity[0].relative < 0.1


def test_tables_are_stored_once_each_and_nothing_unused_is_left(tmp_path):
    model, x = net(("acon_c", "acon_c")), torch.randn(4, 3, 8, 8)
    export_onnx(model, x, tmp_path / "m.onnx", simplify=False, dynamic_size=False)
    quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", [{"x": x.numpy()}])
    made = onnx.load(tmp_path / "q.onnx")
    tables = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer if ".table" in t.name}
    assert {name: array.size for name, array in tables.items()} == {"acts.0.table": C * 256, "acts.1.table": C * 256}
    read = {name for node in made.graph.node for name in node.input}
    assert {t.name for t in made.graph.initializer} <= read and not made.functions
    assert {entry.domain for entry in made.opset_import} <= {"", "ai.onnx"}
