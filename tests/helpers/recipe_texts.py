"""A recipe that holds, and how a test writes one."""

from __future__ import annotations

import textwrap
from pathlib import Path

GOOD = """
schema = 1
title = "Toy"
[model]
source = "recipe_toy:net"
input = [4, 3, 12, 12]
[data]
source = "recipe_toy:data"
[convert]
target = "acon_c"
only = ["relu*"]
[tune]
epochs = 2
batch = 16
lr = 0.05
distill = 0.5
accelerator = "cpu"
log_every = 2
schedules.beta = {start = 200.0, end = 50.0, until = 0.5}
[export]
onnx = false
[[measured]]
date = "2026-11-22"
what = "a test"
"""


def write(folder: Path, text: str, name: str = "recipe.toml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path
