"""Make example inputs from a user's text, from a file, or from the model's own configuration."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from actswap.capture.evaluating import evaluating
from actswap.errors import CaptureError, LoadError, UsageError, first_line

_TEXT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:[,x]\d+)*)(?::(?P<dtype>\w+))?")
_LARGEST = 1 << 32
_UNPACKED = 128 << 20  # bytes that a compressed file may take beside four times its size


@dataclass(frozen=True)
class Inputs:
    """What a model is run on.

    Attributes:
        args: positional inputs.
        kwargs: keyword inputs.
        said: one line for the user: the inputs that were given, or the assumed ones and why.
        assumed: True if the user gave nothing.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    said: str = ""
    assumed: bool = False


def as_inputs(inputs: Any, kwargs: Mapping[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn what users pass (a tensor, a tuple, a dict of keyword inputs) into (args, kwargs)."""
    if isinstance(inputs, Mapping):
        return (), {**inputs, **dict(kwargs or {})}
    if inputs is None:
        return (), dict(kwargs or {})
    return (inputs if isinstance(inputs, tuple) else (inputs,)), dict(kwargs or {})


def call_of(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a batch into (args, kwargs); a batch that already is such a pair is returned as it is."""
    if isinstance(batch, tuple) and len(batch) == 2 and isinstance(batch[0], tuple) and isinstance(batch[1], Mapping):
        return batch[0], dict(batch[1])
    return as_inputs(inputs_of(batch))


def inputs_of(batch: Any) -> Any:
    """Return the inputs of a batch: the first of a list, as in [inputs, labels]; else the batch itself."""
    if isinstance(batch, list) and batch and isinstance(batch[0], Tensor):
        return batch[0]
    return dict(batch) if isinstance(batch, Mapping) else batch


def varied(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int = 0
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return inputs of the same kind with other values: the same numbers in another order.

    If there are few numbers, or all are equal, they are drawn anew with the same mean and deviation. Integers (token
    ids) change only if nothing else can. Truth values and masks never change.

    Args:
        args: positional inputs.
        kwargs: keyword inputs.
        seed: another one gives other values.

    Returns:
        The inputs; None if nothing in them can change.
    """
    generator = torch.Generator().manual_seed(seed)
    given = [t for t in pytree.tree_leaves((args, dict(kwargs))) if isinstance(t, Tensor) and _can_vary(t)]
    floating = [t for t in given if t.is_floating_point()]
    other = {id(t): _redrawn(t, generator) for t in floating or given}
    if not other:
        return None
    made = pytree.tree_map(lambda v: other.get(id(v), v), (args, dict(kwargs)))
    return tuple(made[0]), dict(made[1])


def doubled(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return a batch of two made from a batch of one: each tensor is joined with a varied copy (see `varied`).

    Args:
        args: positional inputs.
        kwargs: keyword inputs.

    Returns:
        The inputs; None if the first tensor is no batch of one.
    """
    tensors = [t for t in pytree.tree_leaves((args, dict(kwargs))) if isinstance(t, Tensor)]
    if not tensors or tensors[0].dim() < 2 or tensors[0].shape[0] != 1:
        return None
    second = varied(args, kwargs) or (args, dict(kwargs))

    def pair(a: Any, b: Any) -> Any:
        return torch.cat([a, b]).detach() if isinstance(a, Tensor) and a.dim() and a.shape[0] == 1 else a

    made = pytree.tree_map(pair, (args, dict(kwargs)), second)
    return tuple(made[0]), dict(made[1])


def _can_vary(t: Tensor) -> bool:
    if t.is_meta or t.layout is not torch.strided or t.numel() == 0 or t.is_complex() or t.dtype is torch.bool:
        return False
    return t.is_floating_point() or (int(t.max()) > 1 and int(t.min()) < int(t.max()))


_FEW = 64  # so few numbers are not varied enough by another order


def _redrawn(t: Tensor, generator: torch.Generator) -> Tensor:
    flat = t.detach().flatten()
    low, high = (float(v) for v in flat.double().aminmax())
    if t.is_floating_point() and (t.numel() < _FEW or low == high):
        mean, deviation = float(flat.double().mean()), float(flat.double().std(unbiased=False))
        drawn = mean + torch.randn(flat.shape, generator=generator, dtype=torch.float64) * (deviation or abs(mean) or 1)
        flat = (drawn.abs() if low >= 0 and high > 0 else drawn).to(t)
    else:
        flat = flat[torch.randperm(flat.numel(), generator=generator).to(t.device)]
    return flat.view(t.shape).requires_grad_(t.requires_grad)


def parse(specs: Sequence[str], model: nn.Module | None = None) -> Inputs:
    """Build inputs from `--input` texts.

    Args:
        specs: each `1,3,224,224`, `1,16:int64`, `input_ids=1,16:int64`, or a `.npz`, `.npy` or `.pt` file.
            Random values are the same on every run.
        model: the model, whose vocabulary bounds random integers.

    Returns:
        The inputs.

    Raises:
        UsageError: a text is not understood, or a dtype does not exist.
        LoadError: a file cannot be read.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for index, spec in enumerate(specs):
        if _is_file(spec):
            found = read_file(spec)
            args += found.args
            kwargs |= found.kwargs
            continue
        match = _TEXT.fullmatch(spec.replace(" ", ""))
        if match is None:
            raise UsageError(
                f"--input {spec!r} is not understood",
                fix="--input 1,3,224,224 or --input input_ids=1,16:int64 or --input photos.npz",
            )
        shape = tuple(int(n) for n in re.split("[,x]", match["shape"]))
        if np.prod(shape, dtype=float) > _LARGEST:
            raise UsageError(
                f"--input {spec} asks for {np.prod(shape, dtype=float):.0f} numbers",
                fix="--input 1,3,224,224",
            )
        value = _random(
            shape, match["dtype"] or str(_precision(model)).removeprefix("torch."), match["name"], model, seed=index
        )
        if match["name"]:
            kwargs[match["name"]] = value
        else:
            args.append(value)
    files = [spec for spec in specs if _is_file(spec)]
    said = describe(args, kwargs) + (f" from {', '.join(files)}" if files else "")
    return Inputs(tuple(args), kwargs, said)


def _is_file(spec: str) -> bool:
    return Path(spec).suffix in (".npz", ".npy", ".pt", ".pth")


def read_file(path: str) -> Inputs:
    """Read inputs from `.npz` (named arrays are keywords, `arr_0` positions), `.npy` or `.pt` (tensors)."""
    file = Path(path)
    if file.exists() and not file.is_file():
        raise LoadError(f"{path} is no file but a folder, a device, a pipe or a socket", fix="--input 1,3,224,224")
    try:
        if file.suffix == ".npz":
            _check_packed(file)
        if file.suffix in (".npz", ".npy"):
            data = np.load(file, allow_pickle=False)
            content: Any = {k: torch.from_numpy(data[k]) for k in data.files} if file.suffix == ".npz" else data
            if isinstance(content, np.ndarray):
                content = torch.from_numpy(content)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise LoadError(f"there is no file {path}", fix="--input 1,3,224,224 or an existing .npz or .pt file") from None
    except Exception as problem:  # damaged or hostile files fail in any way
        raise LoadError(
            f"{path} cannot be read as inputs",
            why=first_line(problem, 160),
            fix="np.savez('inputs.npz', x) or torch.save((x,), 'inputs.pt') with tensors only",
        ) from None
    if isinstance(content, Mapping):
        args = tuple(content[k] for k in sorted(content, key=_position) if k.startswith("arr_"))
        kwargs = {k: v for k, v in content.items() if not k.startswith("arr_")}
        if not args and len(kwargs) == 1 and "x" in kwargs:
            args, kwargs = (kwargs["x"],), {}
    else:
        args, kwargs = (tuple(content) if isinstance(content, list | tuple) else (content,)), {}
    return Inputs(args, kwargs, f"{describe(args, kwargs)} from {path}")


def _check_packed(file: Path) -> None:
    """Refuse a compressed file that takes far more memory than it holds."""
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 4 * file.stat().st_size + _UNPACKED:
        raise ValueError(f"it would unpack to {unpacked >> 20} MiB, far more than the file holds")


def guess(model: nn.Module) -> Inputs:
    """Find inputs that the model runs on.

    They come from its exported example, its timm or transformers configuration, or its layers.

    Returns:
        The first inputs that run.

    Raises:
        CaptureError: nothing that was tried runs.
    """
    tried: list[str] = []
    precision = _precision(model)
    for args, kwargs, why in _candidates(model):
        args = tuple(_in(precision, value) for value in args)
        kwargs = {name: _in(precision, value) for name, value in kwargs.items()}
        try:
            with evaluating(model):
                model(*args, **kwargs)
        except Exception as problem:  # a wrong guess fails in any way; the next one is tried
            tried.append(f"{describe(args, kwargs)}: {first_line(problem, 120)}")
            continue
        return Inputs(args, kwargs, f"{describe(args, kwargs)} (assumed from {why})", assumed=True)
    raise CaptureError(
        "no example input was given and none of the usual ones runs",
        where=type(model).__name__,
        why="; ".join(tried),
        fix="--input 1,3,224,224 (or name=shape:dtype, or an .npz file)"
        + ("" if precision is torch.float32 else f"; --dtype float32 if {precision} does not run on this processor"),
    )


def describe(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Return a short text: `1x3x224x224 float32, input_ids=1x16 int64`."""

    def one(value: Any) -> str:
        if not isinstance(value, Tensor):
            return type(value).__name__
        return f"{'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"

    return ", ".join([one(a) for a in args] + [f"{k}={one(v)}" for k, v in kwargs.items()])


def _position(key: str) -> int:
    return int(key[4:]) if key.startswith("arr_") and key[4:].isdigit() else -1


def _random(shape: tuple[int, ...], dtype: str, name: str | None, model: nn.Module | None, seed: int = 0) -> Tensor:
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise UsageError(f"there is no dtype {dtype!r}", fix="--input 1,16:int64 (or float32, float16, bfloat16, bool)")
    generator = torch.Generator().manual_seed(seed)
    if kind.is_floating_point or kind.is_complex:
        return torch.randn(shape, generator=generator).to(kind)
    if kind is torch.bool or (name and "mask" in name):
        return torch.ones(shape, dtype=kind)
    if name and "type" in name:
        return torch.zeros(shape, dtype=kind)
    return torch.randint(0, _vocabulary(model), shape, generator=generator).to(kind)


def _precision(model: nn.Module | None) -> torch.dtype:
    """Return the dtype of the first layer's weights, which the network expects of its inputs."""
    weights = model.parameters() if model is not None else iter(())
    return next((p.dtype for p in weights if p.is_floating_point()), torch.float32)


def _in(precision: torch.dtype, value: Any) -> Any:
    return value.to(precision) if isinstance(value, Tensor) and value.dtype is torch.float32 else value


def _vocabulary(model: nn.Module | None) -> int:
    """Return a bound that every random token id must stay below."""
    if model is None:
        return 2
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    widths = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    return int(size) if isinstance(size, int) else min(widths, default=2)


def _candidates(model: nn.Module) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], str]]:
    """Yield (args, kwargs, reason), best guess first."""
    example = getattr(model, "meta", {}).get("example_inputs") if hasattr(model, "meta") else None
    if example:
        yield tuple(example[0]), dict(example[1]), "the exported program's own example"
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
    if size:
        yield from _of_timm(model, tuple(size))
    yield from _of_transformers(model)
    leaf = next((m for m in model.modules() if isinstance(m, _FIRST)), None)
    yield from _of_layer(leaf, model)
    yield (_random((1, 3, 224, 224), "float32", None, model),), {}, "habit"


def _of_timm(model: nn.Module, size: tuple[int, ...]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], str]]:
    """Guess from the configuration, which tells the training size, and from layers built for another size."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None and first.groups == 1 else size[0]
    built = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(built, tuple) and (channels, *built) != size:
        yield (_random((1, channels, *built), "float32", None, model),), {}, "timm's patch embedding"
    for wide in dict.fromkeys((size[0], channels)):
        yield (_random((1, wide, *size[1:]), "float32", None, model),), {}, "timm's configuration"


def _of_transformers(model: nn.Module) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], str]]:
    config = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if config is None or not isinstance(main, str):
        return
    why = "transformers' configuration"
    ids = _random((1, 16), "int64", "input_ids", model)
    for value in _main_inputs(model, config, main):
        vision = getattr(config, "vision_config", None)
        if main == "input_ids" and vision is not None:
            yield (), {main: value, "pixel_values": next(_main_inputs(model, vision, "pixel_values"))}, why
        yield (), {main: value}, why
        yield (), {main: value, "decoder_input_ids": ids}, why


def _main_inputs(model: nn.Module, config: Any, main: str) -> Iterator[Tensor]:
    """Yield values for a main input of this name: images, videos, tokens, audio, spectrograms."""

    def get(*names: str, default: Any = None) -> Any:
        return next((v for n in names if (v := getattr(config, n, None)) is not None), default)

    shapes: list[tuple[int, ...]] = []
    if main == "input_ids":
        yield _random((1, 16), "int64", main, model)
    elif main == "pixel_values":
        side = get("image_size", default=224)
        sides = tuple(side) if isinstance(side, list | tuple) else (side, side)
        channels, frames = get("num_channels", "in_channels", default=3), get("num_frames")
        shapes = [(1, frames, channels, *sides)] * bool(frames) + [(1, channels, *sides)]
    elif main == "input_values":
        bins, length = get("num_mel_bins"), get("max_length", default=1024)
        shapes = [(1, length, bins)] * bool(bins) + [(1, 16000), (1, 1, 16000)]
    elif main == "input_features":
        bins = get("num_mel_bins", "input_feat_per_channel", default=80)
        length = 2 * int(get("max_source_positions", default=1500))
        shapes = [(1, bins, length), (1, 200, bins), (1, length, bins), (1, 1, 1001, bins)]
    for shape in shapes:
        yield _random(shape, "float32", None, model)


_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding)


def _of_layer(leaf: nn.Module | None, model: nn.Module) -> Iterator[tuple[tuple[Any, ...], dict[str, Any], str]]:
    """Guess from the first layer with weights: its input width and its number of axes."""
    why = f"the first layer, {type(leaf).__name__}"
    if isinstance(leaf, nn.Linear):
        yield (_random((1, leaf.in_features), "float32", None, model),), {}, why
        yield (_random((1, 16, leaf.in_features), "float32", None, model),), {}, why
    elif isinstance(leaf, nn.Embedding):
        yield (_random((1, 16), "int64", None, model),), {}, why
    elif isinstance(leaf, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        flat: list[tuple[int, ...]] = [(224, 224), (32, 32), (28, 28)]
        line, volume = [(1024,)], [(16, 112, 112)]
        for extent in line if isinstance(leaf, nn.Conv1d) else flat if isinstance(leaf, nn.Conv2d) else volume:
            yield (_random((1, leaf.in_channels, *extent), "float32", None, model),), {}, why
