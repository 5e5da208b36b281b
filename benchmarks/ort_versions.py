"""The library of custom operators in a range of ONNX Runtime versions: does it load, are the numbers right?

    python benchmarks/ort_versions.py 1.18.1 1.20.1 1.22.1 1.24.4 1.31.1

Each version goes into a virtual environment of its own, in a temporary folder that is removed at the end. There small
networks, one per activation, run on three sizes: by the function bodies (no library), and by the kernels. The models
and the right answers are made here, with PyTorch. The rows go to benchmarks/results/ort_versions.jsonl.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# This folder would otherwise be searched first, and this file is called onnx.
sys.path[0] = str(ROOT)

import argparse
import datetime
import json
import platform
import subprocess
import tempfile
import venv

RESULTS = Path(__file__).parent / "results" / "ort_versions.jsonl"
TARGETS = ("swish", "acon_b", "acon_c", "meta_acon", "dy_relu_a", "dy_relu_b", "dy_relu_c", "pau", "opau")
LIMIT = 1e-4
# Runs in the environment of the version; prints one JSON object.
PROBE = """
import json, sys
import numpy as np, onnxruntime as ort
library, folder, names = sys.argv[1], sys.argv[2], sys.argv[3:]
rows = {}
for name in names:
    data = np.load(f"{folder}/{name}.npz")
    for way in ("bodies", "kernels"):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            if way == "kernels":
                options.register_custom_ops_library(library)
            session = ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
            worst = 0.0
            for k in range(3):
                got = session.run(None, {session.get_inputs()[0].name: data[f"x{k}"]})[0]
                want = data[f"y{k}"]
                worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
            rows[f"{name} {way}"] = worst
        except Exception as error:
            rows[f"{name} {way}"] = str(error).strip().splitlines()[0]
print(json.dumps({"onnxruntime": ort.__version__, "numpy": np.__version__, "rows": rows}))
"""


def write_models(folder: Path) -> None:
    """One network per activation with random parameters, its inputs and PyTorch's answers."""
    import numpy as np
    import torch
    from torch import nn

    from actswap.activations import get
    from actswap.onnx.export import export_onnx

    for name in TARGETS:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            get(name).build(24, 1),
            nn.Conv2d(24, 20, 3, groups=4, padding=1),
            get(name).build(20, 1),
            nn.Conv2d(20, 5, 1),
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        export_onnx(model, torch.randn(2, 3, 16, 16), folder / f"{name}.onnx")
        arrays = {}
        for k, shape in enumerate(((2, 3, 16, 16), (1, 3, 11, 7), (5, 3, 9, 20))):
            x = torch.randn(*shape)
            with torch.no_grad():
                arrays[f"x{k}"], arrays[f"y{k}"] = x.numpy(), model(x).numpy()
        np.savez(folder / f"{name}.npz", **arrays)


def probe(version: str, folder: Path) -> dict[str, object]:
    """Make an environment with this version and run the probe in it."""
    from actswap.onnx.library import library_path

    home = folder / version
    venv.create(home, with_pip=True)
    python = str(home / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    old = tuple(int(part) for part in version.split(".")[:2]) < (1, 19)
    install = [python, "-m", "pip", "install", "-q", f"onnxruntime=={version}", "numpy<2" if old else "numpy"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        return {"onnxruntime": version, "failed": done.stderr.strip().splitlines()[-1]}
    command = [python, "-c", PROBE, library_path(), str(folder), *TARGETS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        return {"onnxruntime": version, "failed": done.stderr.strip().splitlines()[-1]}
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main() -> int:
    """Probe every version; exit status 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+")
    args = parser.parse_args()
    head = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "command": "python benchmarks/ort_versions.py " + " ".join(sys.argv[1:]),
    }
    bad = 0
    RESULTS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for version in args.versions:
            found = probe(version, folder)
            rows = found.get("rows")
            wrong = [k for k, v in rows.items() if not isinstance(v, float) or not v <= LIMIT] if rows else [version]
            bad += bool(wrong)
            worst = max((v for v in rows.values() if isinstance(v, float)), default=0.0) if rows else float("nan")
            print(f"{version:8} worst relative error {worst:.1e}  " + (f"wrong: {wrong}" if wrong else "all right"))
            if wrong and rows:
                print("\n".join(f"    {k}: {rows[k]}" for k in wrong))
            with RESULTS.open("a") as file:
                file.write(json.dumps({**head, **found}) + "\n")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
