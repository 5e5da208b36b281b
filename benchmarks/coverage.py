"""Convert every model of the conformance zoo and write down what happened.

    python benchmarks/coverage.py --zoo ../shared/conformance --target acon_c
    python benchmarks/coverage.py --zoo ../shared/conformance --only timm:resnet18.a1_in1k --target acon_c

One process per model with a time limit; one JSON line per finished model in benchmarks/results, so that an interrupted
sweep goes on where it stopped; `--summary` prints the table of what is there. Columns: census (calls of the zoo file,
calls that ran, calls the scan lists), replaced and left with reasons, channel axis known, and right by the zoo file,
parity, every check of the proof, sites that run only in training, keys kept, finite gradients, torch.export, ONNX
parity, seconds, peak memory. `--families` takes one model of every family (names that begin with the same letters)
that has several.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import multiprocessing
import os
import platform
import re
import resource
import sys
import time
import traceback
from pathlib import Path

# Two builders stand under another name than their model's in the zoo file.
BUILDERS = {"dpt": "mask2former_dpt", "focalnet": "efficientformer"}
GATES = ("sigmoid", "tanh", "hardsigmoid", "softplus", "glu", "logsigmoid", "softsign")


def import_zoo(folder: Path):
    """Import the builders, and compute torchvision's nms in plain torch if its compiled operator is missing."""
    import torch

    from actswap.io.torchvision_import import import_library

    import_library("torchvision")
    lib = torch.library.Library("torchvision", "IMPL")
    if not torch._C._dispatch_has_kernel_for_dispatch_key("torchvision::nms", "CPU"):
        lib.impl("nms", _nms, "CPU")
    sys.path.insert(0, str(folder))
    import models

    _without_compiled_operators()
    return models, lib


def _nms(boxes, scores, threshold):
    import torch

    order = scores.argsort(descending=True)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = []
    while order.numel():
        i = order[0]
        keep.append(i)
        low = torch.maximum(boxes[order[1:], :2], boxes[i, :2])
        high = torch.minimum(boxes[order[1:], 2:], boxes[i, 2:])
        inter = (high - low).clamp(min=0).prod(1)
        order = order[1:][inter / (area[order[1:]] + area[i] - inter) <= threshold]
    return torch.stack(keep) if keep else torch.zeros(0, dtype=torch.long)


def _without_compiled_operators() -> None:
    """torchvision's RoIAlign has a Python form of its own; its NMS is the one declared above."""
    from torchvision.ops import boxes

    boxes._assert_has_ops = lambda: None


def preload(folder: Path) -> None:
    """Import once what every model needs; the children are forked."""
    _LOADED.append(import_zoo(folder))
    import segmentation_models_pytorch
    import timm
    import torch
    import transformers

    import actswap

    torch.set_num_threads(1)
    _LOADED.extend([segmentation_models_pytorch, timm, transformers, actswap.convert, actswap.scan])


_LOADED: list = []


def perturb(model) -> None:
    """Zero-initialised scales would hide whole branches from the parity check."""
    import torch

    generator = torch.Generator().manual_seed(7)
    for p in model.parameters():
        if p.numel() > 1 and p.dim() <= 1 and float(p.detach().std()) == 0.0:
            with torch.no_grad():
                p.add_(torch.randn(p.shape, generator=generator) * 0.1)


def measure(entry: dict, target: str, start: str, deep: bool) -> dict:
    import actswap
    from actswap.capture.observe import observe
    from actswap.checks.census import count
    from actswap.checks.parity import run, tensors_of
    from actswap.recognize.locate import locate

    zoo, _ = _LOADED[0]
    zoo_key = {"torchvision": "tv", "transformers": "hf", "timm": "timm", "smp": "smp"}[entry["zoo"]]
    model, args, kwargs = zoo.builder(zoo_key, BUILDERS.get(entry["name"], entry["name"]))()
    perturb(model)
    row = {"zoo": entry["zoo"], "name": entry["name"], "target": target, "start": start}
    row["expected_core"] = entry["core_calls"]
    row["expected_all"] = entry["all_calls"]
    counted = count(locate(model, observe(model, args, kwargs)))
    row["ran"] = sum(counted.values())
    row["by_kind"] = counted
    row["ran_core"] = sum(n for k, n in counted.items() if k not in GATES)
    clock = time.process_time()
    sites = actswap.scan(model, args, kwargs)
    row["scan_s"] = round(time.process_time() - clock, 2)
    row["sites"] = len(sites)
    keys = set(model.state_dict())
    before = run(model, args, kwargs)
    clock = time.process_time()
    try:
        result = actswap.convert(model, target, args, kwargs, start=start)
    except actswap_errors() as error:
        row["refused"] = str(error)[:600]
        return row
    row["convert_s"] = round(time.process_time() - clock, 2)
    report = result.report
    core = [r for r in report.replaced if r.site.source.kind not in GATES]
    row["replaced_core"] = sum(r.site.calls for r in core)
    row["replaced"] = sum(r.site.calls for r in report.replaced)
    row["left_core"] = [(e.site.name, e.reason[:300]) for e in report.left if e.site.source.kind not in GATES]
    row["starts"] = dict(collections.Counter(r.start for r in report.replaced))
    row["channels_known"] = sum(r.site.calls for r in core if r.site.channels is not None)
    row["channel_layout"] = dict(
        collections.Counter(
            f"{len(r.site.shape)}-D " + ("none" if r.site.channels is None else str(r.site.channel_dim))
            for r in core
            for _ in range(r.site.calls)
        )
    )
    row["channel_right"] = channels_right(row["channel_layout"], entry["channels"]["core"])
    row["rel"], row["census"] = report.parity.rel, report.census.complete
    row["rel_to_size"], row["tolerance"] = report.parity.rel_to_size, report.tolerance
    row["proof"] = {check.name: check.passed for check in report.proof.checks}
    row["said"] = {check.name: check.said[:300] for check in report.proof.checks if check.passed is not True}
    row["gradient_error"] = {check.name: check.error for check in report.proof.checks}
    row["only_in_training"] = [s.name for s in sites if s.reason.startswith("runs only in training")]
    row["at_odds"] = [(e.site.name, e.reason[:300]) for e in report.left if "another function" in e.reason]
    row["verify_s"] = round(report.seconds["verify"], 2)
    from actswap.checks.parity import compare

    row["parity"] = compare(before, run(result.model, args, kwargs)).rel
    kept = keys - set(result.model.state_dict())
    prelu = {r.site.name for r in report.replaced}
    row["lost_keys"] = sorted(k for k in kept if k.rpartition(".")[0] not in prelu)[:5]
    row["backward"] = backward(result.model, args, kwargs, tensors_of)
    row["same_again"] = compare(before, run(actswap.revert(result.model), args, kwargs)).max_abs == 0.0
    if deep:
        row["export"] = exported(model, result.model, args, kwargs, tensors_of)
        row["onnx"] = onnx_parity(model, result.model, args, kwargs)
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def channels_right(ours: dict[str, int], theirs: dict[str, int]) -> int:
    """Core calls whose channel axis is where the zoo file has it."""
    found: collections.Counter = collections.Counter()
    for layout, calls in ours.items():
        rank, axis = layout.split()
        word = {"none": "unknown", "-1": "last"}.get(axis, "[N,C]" if rank == "2-D" else f"dim{axis}")
        found[f"{rank} {word}"] += calls
    return sum((found & collections.Counter(theirs)).values())


def families(entries: list[dict]) -> list[dict]:
    """One model, the last listed, of every family that has several."""
    found: dict[str, list[dict]] = {}
    for entry in entries:
        letters = re.match("[a-z]*", entry["name"].removeprefix("smp:").lower())
        found.setdefault(letters[0] if letters else "", []).append(entry)
    return [members[-1] for members in found.values() if len(members) > 1]


def actswap_errors():
    from actswap.errors import ActswapError

    return ActswapError


def backward(model, args, kwargs, tensors_of) -> str:
    import torch

    model.eval()
    model.zero_grad()
    try:
        loss = sum(t.float().square().mean() for t in tensors_of(model(*args, **kwargs)) if t.requires_grad)
        loss.backward()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    bad = [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    return f"not finite: {bad[:3]}" if bad else "finite"


def exported(original, model, args, kwargs, tensors_of) -> str:
    import torch

    for candidate, label in ((model, "ok"), (original, "the original does not export either")):
        try:
            program = torch.export.export(candidate.eval(), args, kwargs, strict=False)
        except Exception as error:
            failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[
                :200
            ]
            if candidate is original:
                return label
            continue
        if candidate is original:
            return failure
        from actswap.checks.parity import compare

        with torch.no_grad():
            out = list(tensors_of(program.module()(*args, **kwargs)))
            expected = list(tensors_of(candidate(*args, **kwargs)))
        rel = compare(expected, out).rel
        return label if rel < 1e-4 else f"differs by {rel:.1e}"
    return "unreachable"


def onnx_parity(original, model, args, kwargs) -> str:
    import tempfile

    import torch

    import actswap

    with tempfile.TemporaryDirectory() as folder:
        try:
            report = actswap.export_onnx(
                model, args, Path(folder) / "m.onnx", example_kwargs=kwargs, dynamic_batch=False, dynamic_size=False
            )
            return f"{max((p.relative for p in report.parity), default=0.0):.1e}"
        except Exception as error:
            failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[
                :200
            ]
        try:
            torch.onnx.export(original.eval(), args, None, kwargs=kwargs, dynamo=True, verbose=False)
        except Exception:
            return "the original does not export either"
        return failure


def summary(rows: list[dict]) -> str:
    done = [r for r in rows if "parity" in r]
    core = sum(r["ran_core"] for r in done)
    replaced = sum(r.get("replaced_core", 0) for r in done)
    known, sites = sum(r["channels_known"] for r in done), sum(r["replaced_core"] for r in done)
    right = sum(r.get("channel_right", 0) for r in done)
    whole = [r for r in done if not r["left_core"] and r["replaced_core"] == r["ran_core"]]
    lines = [
        f"models {len(rows)}, converted {len(done)}, refused {sum('refused' in r for r in rows)}, "
        f"crashed {sum('crash' in r for r in rows)}",
        f"scan counts the core calls of the zoo file: "
        f"{sum(r.get('ran_core') == r['expected_core'] for r in rows)} of {len(rows)}",
        f"core calls replaced {replaced} of {core} ({100 * replaced / max(core, 1):.2f} %)",
        f"models with every core call replaced {len(whole)} ({100 * len(whole) / max(len(rows), 1):.1f} %)",
        f"parity within the tolerance: {sum(r['rel'] <= r.get('tolerance', 1e-3) for r in done)}, "
        f"census complete: {sum(r['census'] for r in done)}",
        f"keys kept {sum(not r['lost_keys'] for r in done)}, "
        f"backward finite {sum(r['backward'] == 'finite' for r in done)}, "
        f"revert bit-exact {sum(r['same_again'] for r in done)}",
        f"channel axis known at {known} of {sites} core calls; right by the zoo file for {right} of {sites}",
    ]
    proved = [r for r in done if "proof" in r]
    for check in dict.fromkeys(name for r in proved for name in r["proof"]):
        found = collections.Counter(r["proof"][check] for r in proved if check in r["proof"])
        lines.append(f"{check}: passed {found[True]}, failed {found[False]}, not proved {found[None]}")
    if proved:
        odd = [f"{r['zoo']}:{r['name']}" for r in proved if r["at_odds"]]
        lines.append(f"sites left since a check is at odds: {', '.join(odd) or 'none'}")
        lines.append(f"models with sites that run only in training: {sum(bool(r['only_in_training']) for r in proved)}")
    deep = [r for r in done if "export" in r]
    if deep:
        lines.append(f"torch.export ok {sum(r['export'] == 'ok' for r in deep)} of {len(deep)}")
        good = [r for r in deep if r["onnx"][:1].isdigit() and float(r["onnx"]) <= 1e-3]
        lines.append(f"ONNX parity {len(good)} of {len(deep)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("../shared/conformance"))
    parser.add_argument("--target", default="acon_c")
    parser.add_argument("--start", default="auto")
    parser.add_argument("--families", action="store_true", help="one model per family")
    parser.add_argument("--only", action="append", help="zoo:name, or a part of it")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds per model")
    parser.add_argument("--deep", action="store_true", help="torch.export and ONNX too")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    day = datetime.date.today().isoformat()
    name = f"coverage-{options.target}" + ("-families" if options.families else "")
    out = options.out or Path(__file__).parent / "results" / f"{name}-{day}.jsonl"
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    finished = {(r["zoo"], r["name"]) for r in done}
    entries = [json.loads(line) for line in (options.zoo / "zoo.jsonl").read_text().splitlines()]
    if options.families:
        entries = families(entries)
    if options.only:
        entries = [e for e in entries if any(o in f"{e['zoo']}:{e['name']}" for o in options.only)]
        finished = set()
    if not options.summary:
        preload(options.zoo)
        for i, entry in enumerate(entries):
            if (entry["zoo"], entry["name"]) in finished:
                continue
            row = in_process(entry, options)
            done.append(row)
            shown = {k: row.get(k) for k in ("crash", "refused", "ran_core", "replaced_core", "parity", "left_core")}
            print(f"[{i + 1}/{len(entries)}] {entry['zoo']}:{entry['name']} {shown}", file=sys.stderr, flush=True)
            if options.only:
                print(json.dumps(row, indent=1))
                continue
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    if not options.only:
        text = f"{day}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores\n{summary(done)}\n"
        out.with_suffix(".txt").write_text(text)
        print(text)


def in_process(entry: dict, options: argparse.Namespace) -> dict:
    """Measure in a forked process: the parent has imported everything, a model that hangs or crashes is alone."""
    row = {"zoo": entry["zoo"], "name": entry["name"], "expected_core": entry["core_calls"]}
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        try:
            sender.send(measure(entry, options.target, options.start, options.deep))
        except BaseException:
            sender.send({**row, "crash": traceback.format_exc()[-1500:]})

    process = context.Process(target=work)
    process.start()
    found = receiver.recv() if receiver.poll(options.limit) else {**row, "crash": f"more than {options.limit:g} s"}
    process.kill()
    process.join()
    return found


if __name__ == "__main__":
    main()
