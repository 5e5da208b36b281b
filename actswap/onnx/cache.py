"""Prepared models on disk: one file per key.

A file is written beside and renamed; its digest is checked when it is read.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """`$ACTSWAP_CACHE`, else `actswap` in the user's cache folder."""
    named = os.environ.get("ACTSWAP_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "actswap"


def read(key: str, folder: Path) -> bytes | None:
    """The entry, None where there is none or it is damaged."""
    try:
        data = (folder / f"{key}.prepared").read_bytes()
    except OSError:
        return None
    digest, body = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None


def write(key: str, body: bytes, folder: Path) -> str:
    """Store the entry; any number of processes may do so at once.

    Returns:
        An empty string, or why the entry could not be stored, in words.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{key}-", dir=folder)
    except OSError as error:
        return f"the cache folder cannot be written: {error}"
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(body).digest() + body)
        os.replace(name, folder / f"{key}.prepared")
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        return f"the cache folder cannot be written: {error}"
    return ""
