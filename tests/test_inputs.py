"""Inputs that nobody gave: from what a model says about itself, as timm's and transformers' models do."""

from __future__ import annotations

import os
import zipfile
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actswap.errors import CaptureError, LoadError
from actswap.inputs import guess, parse, read_file


class Speaking(nn.Module):
    """Says what it is as transformers' models do, and runs on one shape of each input only."""

    def __init__(self, main: str, wanted: dict[str, tuple[int, ...]], **config: Any) -> None:
        super().__init__()
        self.main_input_name, self.wanted = main, wanted
        self.config = SimpleNamespace(**config)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, **inputs: Tensor) -> Tensor:
        if {name: tuple(t.shape) for name, t in inputs.items()} != self.wanted:
            raise ValueError("another shape")
        return self.norm(torch.ones(2, 1))


TOKENS = {"input_ids": (1, 16)}
DECODED = {"decoder_input_ids": (1, 16)}
CASES: list[tuple[str, str, dict[str, tuple[int, ...]], dict[str, Any]]] = [
    ("text", "input_ids", TOKENS, {"vocab_size": 9}),
    ("translation", "input_ids", TOKENS | DECODED, {"vocab_size": 9}),
    ("picture", "pixel_values", {"pixel_values": (1, 3, 48, 48)}, {"image_size": 48}),
    ("grey", "pixel_values", {"pixel_values": (1, 1, 48, 32)}, {"image_size": [48, 32], "num_channels": 1}),
    ("film", "pixel_values", {"pixel_values": (1, 4, 3, 48, 48)}, {"image_size": 48, "num_frames": 4}),
    ("wave", "input_values", {"input_values": (1, 16000)}, {}),
    ("mono", "input_values", {"input_values": (1, 1, 16000)}, {}),
    ("spectrogram", "input_values", {"input_values": (1, 64, 32)}, {"num_mel_bins": 32, "max_length": 64}),
    (
        "speech",
        "input_features",
        {"input_features": (1, 80, 200)} | DECODED,
        {"num_mel_bins": 80, "max_source_positions": 100, "vocab_size": 9},
    ),
    (
        "picture and text",
        "input_ids",
        TOKENS | {"pixel_values": (1, 3, 48, 48)},
        {"vision_config": SimpleNamespace(image_size=48), "vocab_size": 9},
    ),
]


@pytest.mark.parametrize(("main", "wanted", "config"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_transformers_configurations(main: str, wanted: dict[str, tuple[int, ...]], config: dict[str, Any]) -> None:
    model = Speaking(main, wanted, **config).train()
    inputs = guess(model)
    assert {name: tuple(t.shape) for name, t in inputs.kwargs.items()} == wanted
    assert inputs.assumed and "transformers" in inputs.said
    assert model.training and int(model.norm.num_batches_tracked) == 0  # trying moved no statistics


@pytest.mark.parametrize(("channels", "built", "wanted"), [(3, None, (1, 3, 40, 40)), (1, (24, 24), (1, 1, 24, 24))])
def test_timm_configurations(channels: int, built: tuple[int, int] | None, wanted: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU())
    model.pretrained_cfg = {"input_size": (3, 40, 40)}  # type: ignore[assignment]
    if built:
        model.patch_embed = nn.Identity()
        model.patch_embed.img_size = built  # type: ignore[assignment]
    inputs = guess(model)
    assert tuple(inputs.args[0].shape) == wanted and "timm" in inputs.said


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_have_the_precision_of_the_network(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to(dtype)
    assert guess(model).args[0].dtype is dtype
    assert parse(["1,3,8,8"], model).args[0].dtype is dtype
    assert parse(["1,3,8,8:float16"], model).args[0].dtype is torch.float16


def test_nothing_fits() -> None:
    with pytest.raises(CaptureError, match="--input"):
        guess(Speaking("input_ids", {"input_ids": (7, 7)}))


def test_files_that_unpack_to_far_more_than_they_hold_or_are_none(tmp_path):
    bomb, pipe = tmp_path / "bomb.npz", tmp_path / "pipe.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("arr_0.npy", "w") as entry:
        for _ in range(200):
            entry.write(bytes(1 << 20))
    os.mkfifo(pipe)
    for file, why in ((bomb, "unpack"), (pipe, "no file")):
        with pytest.raises(LoadError, match=why):
            read_file(str(file))
