"""Writing files so that a failure leaves nothing half done: beside the target first, then renamed over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actswap.errors import FileError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it over `path` when the block ends without an error.

    On any error, an interrupt included, the temporary file is removed and what stood at `path` stays as it
    was.

    Raises:
        FileError: the disk is full, or the folder cannot be written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as problem:
        raise FileError(
            f"{path} could not be written",
            why=problem.strerror or str(problem),
            fix="free some space or choose another place with -o; what was there before is unchanged",
        ) from problem
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def refuse_overwrite(path: str | os.PathLike[str], *, overwrite: bool, source: str | None = None) -> None:
    """Raise unless `path` may be written.

    Args:
        path: the file or folder to be written.
        overwrite: the user allowed to replace it.
        source: an input that must never be overwritten, whatever the user allowed.

    Raises:
        FileError: the path exists, is the source, or its parent folder does not exist.
    """
    path = Path(path)
    if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
        raise FileError(f"{path} is the input itself", fix="write the result to another place: -o OUT")
    if not path.absolute().parent.is_dir():
        raise FileError(f"the folder {path.parent} does not exist", fix=f"mkdir -p {path.parent}")
    if path.exists() and not overwrite:
        raise FileError(f"{path} exists", fix="add --force (overwrite=True in Python) or choose another -o OUT")
