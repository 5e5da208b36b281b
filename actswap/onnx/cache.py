"""Prepared models on disk: one file per key, written whole, trusted only if this user alone could have written it.

An entry is `SHA-256(key, body)` followed by the body. The digest binds the body to its key: an entry that was copied to
another key is not read. A file that belongs to another user, that others may write to, or that is a link is not read
either, since a prepared model is run in place of the user's own.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from actswap.errors import FileError, first_line
from actswap.io.atomic import write_bytes

_DIGEST_BYTES = 32


def cache_folder() -> Path | None:
    """Return `$ACTSWAP_CACHE`, else `actswap` in the user's cache folder; None if the user has no home."""
    named = os.environ.get("ACTSWAP_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actswap"
    except RuntimeError:
        return None


def read(key: str, folder: Path) -> bytes | None:
    """Return the entry; None if there is none, if it is damaged, or if somebody else could have written it."""
    try:
        descriptor = os.open(folder / f"{key}.prepared", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        theirs = facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if theirs or not stat.S_ISREG(facts.st_mode):
            return None
        try:
            data = file.read()
        except OSError:
            return None
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return body if _digest(key, body) == digest else None


def write(key: str, body: bytes, folder: Path) -> str:
    """Store the entry, for this user alone; any number of processes may do so at once.

    Returns:
        "", or in words why it could not be stored.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_bytes(folder / f"{key}.prepared", _digest(key, body) + body, mode=0o600)
    except FileError as error:
        return f"the cache folder cannot be written: {error.why}"
    except OSError as error:
        return f"the cache folder cannot be written: {first_line(error)}"
    return ""


def _digest(key: str, body: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + body).digest()
