"""The zip files that torch writes, checked as a whole before any record of one is read.

torch stores its records uncompressed, once each, one after the other. A file that does otherwise was made by hand: a
compressed record can be a thousand times larger than the file, two records can share their bytes or their name, and two
readers of zip files can see different records. All of that is refused.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from actswap.errors import LoadError, first_line

_FIX = "save the model again with torch.save or torch.export.save"
MAX_RECORDS = 65_535  # as many as a zip file without extensions holds; checking more would take a minute


def check_zip(path: Path) -> list[str]:
    """Check the records of a zip file that torch wrote.

    Args:
        path: the file.

    Returns:
        The names of its records, without the folder that they all lie in.

    Raises:
        LoadError: a record is compressed, changed, stored twice, overlaps another, or has an odd name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > MAX_RECORDS:
                raise LoadError(f"{path} holds more than {MAX_RECORDS} records", fix=_FIX)
            changed = None if any(e.compress_type for e in entries) else archive.testzip()
        reader = torch._C.PyTorchFileReader(str(path))
        seen = reader.get_all_records()
    except (zipfile.BadZipFile, RuntimeError, ValueError, NotImplementedError) as error:
        raise LoadError(
            f"{path} is damaged",
            why=f"it begins like a file of torch.save but cannot be read as one: {first_line(error)[:120]}",
            fix="copy or save the file again",
        ) from None
    folders = {entry.filename.partition("/")[0] for entry in entries}
    names = [entry.filename.partition("/")[2] for entry in entries]
    problem = ""
    if changed is not None:
        problem = f"the checksum of its record {changed[:80]!r} is wrong: the file has changed since it was written"
    elif len(folders) != 1:
        problem = "its records do not lie in one folder"
    elif len(set(names)) != len(names):
        problem = "it holds two records of one name"
    elif any(e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries):
        problem = "it holds compressed records"
    elif sum(entry.file_size for entry in entries) > path.stat().st_size:
        problem = "its records overlap"
    elif any(
        e.flag_bits & 1 or ".." in n.split("/") or "\\" in n or not n for e, n in zip(entries, names, strict=True)
    ):
        problem = "it holds a record with an odd name"
    elif set(seen) != set(names):
        problem = "torch and zip see different records in it"
    if problem:
        raise LoadError(f"{path} is not a file that torch wrote", why=problem, fix=_FIX)
    return names
