"""The note in a bundle on the model that it was made from, by which the model is found again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actswap.io.folders import is_model_folder, weights_file


@dataclass(frozen=True)
class Base:
    """The note on the model that a bundle was made from.

    Attributes:
        file: name of its file or model folder, without folders; looked for beside the bundle and in the current folder.
        sha256: digest of that file, or of the weights in that folder.
        model: the `--model` text that builds it, if its file holds weights only.
        key, prefix, drop: which weights of the file were taken, under which prefix, and which of them were left out
            (names with commas between), if the user said so.
    """

    file: str | None = None
    sha256: str | None = None
    model: str | None = None
    key: str | None = None
    prefix: str | None = None
    drop: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """Return plain JSON data; what earlier versions do not know only if it is set."""
        return {k: v for k, v in asdict(self).items() if v is not None or k in ("file", "sha256", "model")}


def base_of(
    path: str | os.PathLike[str],
    model: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    drop: Sequence[str] = (),
) -> Base:
    """Return the note on a model file or folder: its name, its digest, how it was built, and what was taken of it."""
    return Base(Path(path).absolute().name, _digest(Path(path)), model, key, prefix, ",".join(drop) or None)


def find_base(path: str | os.PathLike[str], base: Base) -> Path | None:
    """Find the base file of a bundle beside it or in the current folder, by name and digest."""
    if base.file is None:
        return None
    for folder in (Path(path).absolute().parent, Path.cwd()):
        candidate = folder / base.file
        if (candidate.is_file() or is_model_folder(candidate)) and _digest(candidate) == base.sha256:
            return candidate
    return None


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; for a model folder, that of its weights file or of its list of shards."""
    if path.is_dir():
        path = weights_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slow(file)


def _slow(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
