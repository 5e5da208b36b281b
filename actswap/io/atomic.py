"""The one place that writes files: beside the target first, flushed, then renamed over it.

A rename is the only step that changes what stands at a path, and it is atomic. So a path holds its old content or the
complete new content, even if the process is killed at any time. A killed process may leave a file beside the path,
named `.actswap-*.part`. Nothing reads such a file, and a write to the same folder removes it after a day.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from actswap.errors import FileError

_PREFIX, _SUFFIX = ".actswap-", ".part"
_DAY = 86_400.0


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it over `path` when the block ends without an error.

    Args:
        path: the file to be written.

    Yields:
        The path to write to; the block may write a file or a folder there. On any error, an interrupt included, it is
        removed, and what stood at `path` stays as it was.

    Raises:
        FileError: the disk is full, the folder cannot be written, or `path` is no regular file.
    """
    path = Path(path)
    _refuse_special(path)
    beside = beside_of(path)
    try:
        yield beside
        flush(beside)
        os.replace(beside, path)
        flush_folder(path.parent)
    except OSError as problem:
        raise write_error(path, problem) from problem
    except SafetensorError as problem:  # raised by its writer if the disk is full
        raise write_error(path, from_safetensors(problem)) from problem
    except FileError as problem:  # of a file inside the temporary one: the user knows only the path
        if str(beside) not in problem.what:
            raise
        raise FileError(problem.what.replace(str(beside), str(path)), why=problem.why, fix=problem.fix) from problem
    finally:
        discard(beside)


def beside_of(path: Path) -> Path:
    """Return a fresh temporary name in the folder of `path`; unfinished files of more than a day are removed."""
    with suppress(OSError):
        for old in path.parent.glob(f"{_PREFIX}*{_SUFFIX}"):
            if time.time() - old.lstat().st_mtime > _DAY:
                discard(old)
    return path.with_name(f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}")


def write_bytes(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o666) -> None:
    """Write a file as one step: `path` holds its old content or the new, never a part.

    Args:
        path: the file.
        data: its content.
        mode: its permissions, before the process's umask.

    Raises:
        FileError: it cannot be written.
    """
    with replacing(path) as beside, open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file of text as one step, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def flush(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk."""
    if path.is_dir():
        for inside in path.iterdir():
            flush(inside)
        flush_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder, if the file system can do so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change the content of a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def discard(path: Path) -> None:
    """Remove a temporary file or folder, if it is there."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_error(path: Path, problem: OSError) -> FileError:
    """Return the error for a path that could not be written."""
    fix = {
        errno.ENOSPC: "free some space, or choose another place with -o",
        errno.EDQUOT: "free some space, or choose another place with -o",
        errno.EACCES: "choose a folder that you may write to with -o",
        errno.EROFS: "choose a folder that you may write to with -o",
    }.get(problem.errno or 0, "choose another place with -o")
    return FileError(
        f"{path} could not be written",
        why=problem.strerror or str(problem) or type(problem).__name__,
        fix=f"{fix}; what was there before is unchanged",
    )


def from_safetensors(problem: SafetensorError) -> OSError:
    """Return the operating system's error that the writer of safetensors gives as text.

    >>> from_safetensors(SafetensorError("I/O error: No space left on device (os error 28)")).strerror
    'No space left on device'
    """
    number = re.search(r"os error (\d+)", str(problem))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(problem))


def refuse_overwrite(
    path: str | os.PathLike[str], *, overwrite: bool, source: str | os.PathLike[str] | Sequence[object] | None = None
) -> None:
    """Raise unless `path` may be written.

    Args:
        path: the file or folder to be written.
        overwrite: the user allowed to replace it.
        source: an input, or several, that must never be overwritten, whatever the user allowed.

    Raises:
        FileError: the path exists, is a source or a device, or its parent folder does not exist.
    """
    path = Path(path)
    _refuse_special(path)
    sources = source if isinstance(source, Sequence) and not isinstance(source, str) else [source]
    for one in (Path(str(s)) for s in sources if s is not None):
        if path.exists() and one.exists() and path.samefile(one):
            raise FileError(f"{path} is the input itself", fix="write the result to another place: -o OUT")
    if not path.absolute().parent.is_dir():
        raise FileError(f"the folder {path.parent} does not exist", fix=f"mkdir -p {path.parent}")
    if os.path.lexists(path) and not overwrite:
        raise FileError(f"{path} exists", fix="add --force (overwrite=True in Python) or choose another -o OUT")


def _refuse_special(path: Path) -> None:
    """Refuse a device, a pipe or a socket: renaming a file over one removes it for everybody."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise FileError(
            f"{path} is no file but a device, a pipe or a socket",
            why="the result is written beside its place and renamed, which would remove it",
            fix="choose another place with -o",
        )
