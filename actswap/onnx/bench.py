"""`bench`: latency of models and ONNX files side by side, interleaved, as ratios to the first."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from actswap.checks.precision import as_float32, in_dtype, low_precision
from actswap.errors import UsageError
from actswap.onnx.capture import Inputs, batch_size, tensors, with_batch
from actswap.onnx.functions import Array
from actswap.onnx.proof import feed_of
from actswap.onnx.runtime import cpu_session, quiet_options
from actswap.sites import Progress

WAYS = ("auto", "native", "portable")
_DTYPES: Mapping[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Contender:
    """One of the things compared.

    Attributes:
        label: its name in the table.
        subject: a PyTorch module or an ONNX file.
        way: how a file is run: `auto` (prepared if possible), `native` (with the kernels, not prepared) or `portable`
            (a plain ONNX Runtime). Modules ignore it.
    """

    label: str
    subject: nn.Module | str | os.PathLike[str]
    way: str = "auto"


@dataclass(frozen=True)
class Row:
    """Latency of one contender at one number of threads and one batch size, in milliseconds.

    Attributes:
        label: the contender.
        way: `torch`, or how the file was run: `prepared`, `native`, `portable`.
        threads: threads of the runtime.
        batch: samples per call.
        clock: `cpu` (CPU time of the calling thread, used with one thread) or `wall`.
        median: 50th percentile of the calls.
        p90: 90th percentile.
        p99: 99th percentile.
        best: the fastest call.
        ratio: this contender's time divided by the first contender's in the same round; the median over all rounds.
        low: lower quartile of that ratio.
        high: upper quartile of that ratio.
        best_ratio: the fastest call divided by the first contender's fastest.
    """

    label: str
    way: str
    threads: int
    batch: int
    clock: str
    median: float
    p90: float
    p99: float
    best: float
    ratio: float
    low: float
    high: float
    best_ratio: float


@dataclass(frozen=True)
class BenchReport:
    """Rows in the order of threads, batch sizes, contenders."""

    rows: tuple[Row, ...]
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"rounds": self.rounds, "rows": [asdict(row) for row in self.rows]}


def bench(
    subjects: Sequence[Contender | nn.Module | str | os.PathLike[str]],
    example_inputs: Any = None,
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    batches: Sequence[int] | None = None,
    threads: Sequence[int] = (1,),
    rounds: int = 30,
    warmup: int = 3,
    progress: Progress | None = None,
) -> BenchReport:
    """Time several models and files; each round calls every one, so that a disturbance falls on all of them.

    Args:
        subjects: modules, ONNX files, or `Contender`s with a label and a way. Ratios are to the first.
        example_inputs: a tensor, or a tuple of the positional arguments; each subject gets them in its own precision;
            tensors whose first axis is the batch are
            repeated or cut to the batch size. A file needs none if only its batch is dynamic.
        example_kwargs: keyword arguments of modules; their tensors are further inputs of files.
        batches: batch sizes; None is that of the example, or 1.
        threads: numbers of threads.
        rounds: measured calls of each contender.
        warmup: calls before that.
        progress: called with (step, steps, text).

    Returns:
        One row for each number of threads, batch size and subject.

    Raises:
        UsageError: there is nothing to compare, or no input can be made.

    Example:
        >>> report = bench([nn.ReLU(), nn.GELU()], torch.zeros(1, 8), rounds=3)
        >>> [(row.label, row.threads, row.batch) for row in report.rows]
        [('ReLU', 1, 1), ('GELU', 1, 1)]
    """
    contenders = [_contender(subject, k) for k, subject in enumerate(subjects)]
    if not contenders or rounds < 1:
        raise UsageError("nothing to measure", fix="bench([model, 'model.onnx'], inputs, rounds=30)")
    examples: Inputs | None = None
    if example_inputs is not None or example_kwargs:
        args = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
        examples = (tuple(args) if example_inputs is not None else (), dict(example_kwargs or {}))
    own = batch_size(examples) if examples is not None else None
    settings = [(count, batch) for count in threads for batch in batches or (own or 1,)]
    rows: list[Row] = []
    for k, (count, batch) in enumerate(settings):
        (progress or (lambda step, steps, text: None))(k, len(settings), f"{count} threads, batch {batch}")
        with _torch_threads(count):
            runs = [_runner(each, examples, batch, count) for each in contenders]
            times = _interleaved([run for run, _ in runs], rounds, warmup, count)
        first = times[0]
        for contender, (_, way), taken in zip(contenders, runs, times, strict=True):
            milliseconds, ratios = np.asarray(taken) * 1e3, np.asarray(taken) / np.asarray(first)
            rows.append(
                Row(
                    contender.label,
                    way,
                    count,
                    batch,
                    "cpu" if count == 1 else "wall",
                    median=float(np.percentile(milliseconds, 50)),
                    p90=float(np.percentile(milliseconds, 90)),
                    p99=float(np.percentile(milliseconds, 99)),
                    best=float(milliseconds.min()),
                    ratio=float(np.median(ratios)),
                    low=float(np.percentile(ratios, 25)),
                    high=float(np.percentile(ratios, 75)),
                    best_ratio=min(taken) / min(first),
                )
            )
    return BenchReport(tuple(rows), rounds)


def _contender(subject: Contender | nn.Module | str | os.PathLike[str], k: int) -> Contender:
    if isinstance(subject, Contender):
        if subject.way not in WAYS:
            raise UsageError(f"way={subject.way!r}", fix=f"one of {', '.join(WAYS)}")
        return subject
    return Contender(type(subject).__name__ if isinstance(subject, nn.Module) else Path(subject).name, subject)


def _runner(contender: Contender, examples: Inputs | None, batch: int, threads: int) -> tuple[Callable[[], Any], str]:
    subject = contender.subject
    inputs = None if examples is None else with_batch(examples, batch)
    if isinstance(subject, nn.Module):
        if inputs is None:
            raise UsageError(f"{contender.label} needs example inputs", fix="bench(models, example_inputs)")
        model, (args, kwargs) = subject.eval(), in_dtype(as_float32(inputs), low_precision(subject) or torch.float32)

        def call() -> Any:
            with torch.inference_mode():
                return model(*args, **kwargs)

        return call, "torch"
    session = _session(subject, contender.way, threads)
    values = session.get_inputs()
    given = None if inputs is None else tensors(inputs)
    if given is not None and len(given) != len(values):
        raise UsageError(f"{contender.label} takes {len(values)} inputs, {len(given)} were given")
    feed = {v.name: _random(v, batch) for v in values} if given is None else feed_of(session, given)
    return lambda: session.run(None, feed), getattr(session, "actswap_way", "portable")


def _session(path: str | os.PathLike[str], way: str, threads: int) -> Any:
    from actswap.onnx.sessions import session

    options = quiet_options()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if way == "portable":
        return cpu_session(path, options)
    return session(path, options, prepared=way == "auto")


def _random(value: Any, batch: int) -> Array:
    shape = [batch if axis == 0 and not isinstance(d, int) else d for axis, d in enumerate(value.shape)]
    free = [d for d in shape if not isinstance(d, int)]
    if free or value.type not in _DTYPES:
        raise UsageError(
            f"no input can be made for {value.name!r}",
            why=f"its shape is {value.shape} and its type {value.type}",
            fix="bench(files, example_inputs)",
        )
    return np.random.default_rng(0).standard_normal(shape).astype(_DTYPES[value.type])


def _interleaved(runs: Sequence[Callable[[], Any]], rounds: int, warmup: int, threads: int) -> list[list[float]]:
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    for k in range(warmup + rounds):
        for run, own in zip(runs, times, strict=True):
            start = clock()
            run()
            if k >= warmup:
                own.append(clock() - start)
    return times


@contextlib.contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
