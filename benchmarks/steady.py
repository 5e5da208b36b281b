"""An allocator that keeps what is freed, so that no call pays page faults for its place in the round."""

import os
import sys

# Blocks up to 32 MB (the most that glibc allows) from the heap, and the heap never trimmed.
_KEEP = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}


def keep_memory() -> None:
    """Start this program again under that allocator, unless the environment already chooses one."""
    if sys.platform == "linux" and not any(name in os.environ for name in _KEEP):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_KEEP})
