"""Run ONNX files of one broken node through the kernels: nothing may crash or differ from the plain runtime.

A file is a node of domain `actswap` whose attributes, shapes, inputs or types disagree, or a node `Convolution` of a
prepared file. It is opened by a plain ONNX Runtime, which computes the function body, and by one with the kernels. A
finding is a crash, a result that differs from the body's, or a result where the plain runtime refuses the file. The
kernels may refuse more than the body does.

Models run in a process of their own, which is started again behind one that crashed.

    python benchmarks/hostile_models.py --count 2000
    python benchmarks/hostile_models.py --count 2000 --kind convolution
    cmake -S native -B build/asan -DACTSWAP_SANITIZE=ON && cmake --build build/asan
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
        ACTSWAP_ORT_LIBRARY=build/asan/ort/libactswap_ort.so python benchmarks/hostile_models.py
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(ROOT / "tests/helpers")]

# What kernels and bodies may differ by in float32, as a part of the largest finite entry. Rationals with random
# coefficients come near their poles, and there any two orders of operations differ.
TOLERANCE = 1e-3
SIZES = (0, 1, 1, 2, 3, 5, 7, 8, 16, 17)
HUGE = (-(2**63), -(2**31), -9, -2, -1, 0, 1, 2, 3, 7, 8, 16, 24, 2**31, 2**62, 2**63 - 1)


def some(rng: random.Random, *shape: int) -> np.ndarray:
    """Return random numbers of a shape."""
    return np.random.default_rng(rng.randrange(2**32)).standard_normal(shape).astype(np.float32)


def other_shape(rng: random.Random, array: np.ndarray, x: tuple[int, ...]) -> np.ndarray:
    """Return a parameter of another shape: longer, shorter, turned, with more or fewer axes, or like x."""
    shape = list(array.shape)
    way = rng.randrange(9)
    if way == 0 and shape:
        k = rng.randrange(len(shape))
        shape[k] = max(0, shape[k] + rng.choice((-1, 1, 8)))
    elif way == 1 and shape:
        shape[rng.randrange(len(shape))] = rng.choice(SIZES)
    elif way == 2:
        shape = shape[::-1]
    elif way == 3:
        shape = [1] * rng.randrange(1, 3) + shape
    elif way == 4:
        shape = [*shape, *[1] * rng.randrange(1, 3)]
    elif way == 5:
        shape = []
    elif way == 6:
        shape = [n if rng.random() < 0.5 else 1 for n in x]
    elif way == 7:
        shape = list(x[rng.randrange(len(x) + 1) :])
    else:
        shape = [rng.choice(SIZES) for _ in range(rng.randrange(5))]
    return some(rng, *shape)


def broken_attribute(rng: random.Random, node: onnx.NodeProto) -> None:
    """Change, remove, add or retype one attribute."""
    names = [a.name for a in node.attribute]
    name = rng.choice(
        [*names, "dim", "block", "cap", "axes", "view", "table", "channel", "tau", "gain", "prepared_for"]
    )
    old = next((a for a in node.attribute if a.name == name), None)
    value = helper.get_attribute_value(old) if old is not None else None
    if old is not None:
        node.attribute.remove(old)
    way = rng.randrange(6)
    if way == 0:
        return
    if way == 1:
        node.attribute.append(helper.make_attribute(name, rng.choice(("", "x", 0.5, [1.5], "onnxruntime 1.0"))))
        return
    if name in ("tau", "gain", "cap"):
        number = rng.choice((0.0, -1.0, 1e38, 1e-38, float("nan"), float("inf"), 2.5))
        node.attribute.append(helper.make_attribute(name, number))
    elif name in ("axes", "view", "table", "channel", "strides", "pads"):
        numbers = list(value) if value is not None else [1]
        for _ in range(rng.randrange(1, 3)):
            change = rng.randrange(3)
            if change == 0 and numbers:
                numbers[rng.randrange(len(numbers))] = rng.choice(HUGE)
            elif change == 1:
                numbers.insert(rng.randrange(len(numbers) + 1), rng.choice(HUGE))
            elif numbers:
                del numbers[rng.randrange(len(numbers))]
        node.attribute.append(helper.make_attribute(name, numbers, attr_type=AttributeProto.INTS))
    elif name == "activation":
        node.attribute.append(
            helper.make_attribute(name, rng.choice(("Swish", "AconC", "DyReLUC", "Convolution", "?")))
        )
    else:
        node.attribute.append(helper.make_attribute(name, rng.choice(HUGE)))


def operator_model(rng: random.Random) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a file of one operator with up to three things broken, and its inputs."""
    from onnx_cases import LAYOUTS, cases

    case = rng.choice(list(cases(rng.random() < 0.4)))
    shape, dim = rng.choice(LAYOUTS)
    half = rng.random() < 0.1
    model = case.model(len(shape), dim, half)
    return broken(rng, model, shape, half)


def broken(
    rng: random.Random, model: onnx.ModelProto, shape: tuple[int, ...], half: bool, most: int = 3
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Break up to `most` things of a one-node file in place; return it with its inputs."""
    graph, node = model.graph, model.graph.node[0]
    feeds: dict[str, np.ndarray] = {}
    for _ in range(rng.randrange(most + 1)):
        way = rng.randrange(8)
        stored = list(graph.initializer)
        if way <= 2 and stored:
            tensor = rng.choice(stored)
            changed = other_shape(rng, numpy_helper.to_array(tensor), shape)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
        elif way == 3:
            broken_attribute(rng, node)
        elif way == 4:
            shape = tuple(rng.choice(SIZES) for _ in range(rng.randrange(6)))
        elif way == 5:
            node.input[rng.randrange(len(node.input))] = rng.choice(("", "x", node.input[-1]))
        elif way == 6 and stored:  # a parameter that comes with the call
            tensor = rng.choice(stored)
            feeds[tensor.name] = numpy_helper.to_array(tensor)
            graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, None))
            graph.initializer.remove(tensor)
        elif rng.random() < 0.5:
            del node.input[rng.randrange(1, len(node.input) + 1) :]
        else:
            node.input.append(rng.choice(("", "x")))
    dtype = np.float16 if half else np.float32
    graph.input[0].CopyFrom(helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("y", graph.input[0].type.tensor_type.elem_type, None))
    feeds["x"] = (3 * some(rng, *shape)).astype(dtype)
    return model, feeds


def prepared_model(rng: random.Random) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a file of one node of prepared files: on blocks, with a given mean, or a convolution before it."""
    from onnx_cases import cases

    block = rng.choice((8, 16))
    channels = block * rng.randrange(1, 3)
    inputs = block * rng.randrange(1, 3)
    case = rng.choice([c for c in cases(True) if c.name != "dy_relu_c" or rng.random() < 0.3])
    model = case.model(4, 1)
    graph, node = model.graph, model.graph.node[0]
    del model.functions[:]
    node.attribute.append(helper.make_attribute("block", block))
    shape = (rng.choice((1, 2)), channels, rng.choice((1, 4, 9)), rng.choice((1, 5, 14)))
    if rng.random() < 0.7:
        depthwise = rng.random() < 0.4
        size = rng.choice((1, 3))
        inputs = channels if depthwise else inputs
        graph.initializer.append(
            numpy_helper.from_array(some(rng, channels, 1 if depthwise else inputs, size, size), "w")
        )
        graph.initializer.append(numpy_helper.from_array(some(rng, channels), "b"))
        stride, pad = rng.choice((1, 2)), size // 2
        joined = helper.make_node(
            "Convolution", ["x", "w", "b", "", *node.input[1:]], ["y"], domain="actswap", activation=node.op_type,
            strides=[stride] * 2, pads=[pad] * 4,
        )  # fmt: skip
        joined.attribute.extend(node.attribute)
        node.CopyFrom(joined)
        shape = (shape[0], inputs, *shape[2:])
    elif case.name in ("meta_acon", "dy_relu") and rng.random() < 0.7:
        node.op_type = {"MetaAcon": "MetaAconMean"}.get(node.op_type, node.op_type.replace("DyReLU", "DyReLUMean"))
        features = next(t.dims[1] for t in graph.initializer if t.name == "w1")
        graph.initializer.append(numpy_helper.from_array(some(rng, shape[0], features, 1, 1), "mean"))
        node.input.append("mean")
    return broken(rng, model, shape, False, most=2)


def outputs(data: bytes, feeds: dict[str, np.ndarray], library: str) -> np.ndarray | None:
    """Return y, None if the runtime refuses the file or the call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(library)
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found: np.ndarray = session.run(None, feeds)[0]
    except Exception:  # ONNX Runtime's exceptions have no common base
        return None
    return found


def verdict(model: onnx.ModelProto, feeds: dict[str, np.ndarray], library: str, body: bool) -> str:
    """Return what the two runtimes made of a file; a text that begins with FINDING is one."""
    data = model.SerializeToString()
    got = outputs(data, feeds, library)
    if not body:
        return "refused" if got is None else "computed"
    want = outputs(data, feeds, "")
    if got is None:
        return "refused by both" if want is None else "refused by the kernels alone"
    if want is None:
        return "FINDING: computed, and refused by the plain runtime"
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"FINDING: {got.shape} instead of {want.shape}"
    finite = np.isfinite(want) & np.isfinite(got)
    if not finite.any():
        return "same"
    scale = float(np.abs(want[finite].astype(np.float64)).max())
    error = float(np.abs(got[finite].astype(np.float64) - want[finite].astype(np.float64)).max())
    limit = (TOLERANCE if want.dtype == np.float32 else 2.0**-8) * scale
    return "same" if error <= limit else f"FINDING: off by {error:.3g} of {scale:.3g}"


def work(kind: str, first: int, last: int) -> None:
    """Run the models of some seeds; the seed is written before each, so that a crash names its model."""
    from actswap.onnx.library import library_path

    library = library_path()
    for seed in range(first, last):
        rng = random.Random(f"{kind} {seed}")
        model, feeds = operator_model(rng) if kind == "operator" else prepared_model(rng)
        sys.stdout.write(f"{seed} ")
        sys.stdout.flush()
        sys.stdout.write(verdict(model, feeds, library, kind == "operator") + "\n")
        sys.stdout.flush()


def run(kind: str, first: int, count: int) -> collections.Counter[str]:
    """Run models in processes of their own; return how many had each verdict. Findings carry their seeds."""
    total: collections.Counter[str] = collections.Counter()
    at, end = first, first + count
    while at < end:
        command = [sys.executable, __file__, "--work", kind, str(at), str(end)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
        lines = done.stdout.splitlines()
        for line in lines:
            seed, _, text = line.partition(" ")
            at = int(seed) + 1
            if not text:
                text = f"FINDING: crash, {' '.join(done.stderr.split())[-300:]}"
            total[f"{text} (seed {seed})" if text.startswith("FINDING") else text] += 1
        if done.returncode and not (lines and lines[-1].split(" ", 1)[1:] == [""]):
            raise RuntimeError(done.stderr[-3000:])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="models to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", choices=("operator", "convolution"), default="operator")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work[0], int(given.work[1]), int(given.work[2]))
        return
    total = run(given.kind, given.first, given.count)
    for text, count in total.most_common():
        sys.stdout.write(f"{count:6} {text}\n")
    findings = sum(count for text, count in total.items() if text.startswith("FINDING"))
    sys.stdout.write(f"{given.count} {given.kind} models, {findings} findings\n")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
