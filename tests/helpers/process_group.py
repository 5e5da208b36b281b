"""A process group of one process, over a file: no port, no other process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist


@contextmanager
def one_process() -> Iterator[None]:
    """Set up a gloo group of this process alone, and take it down."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{Path(folder) / 'store'}")
        try:
            yield
        finally:
            dist.destroy_process_group()
