"""The metrics of a run: kept in memory and, if the run has a folder, line by line in metrics.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actswap.io.atomic import write_text
from actswap.train.report import read_metrics


class Journal:
    """Lines of metrics.

    Args:
        out: folder of the run; None keeps the lines in memory only.
        rank: number of this process; process 0 writes.
        barrier: waits for the other processes.
    """

    def __init__(self, out: Path | None, rank: int, barrier: Callable[[], None]) -> None:
        self.rows: list[dict[str, Any]] = []
        self._folder, self._rank, self._barrier = out, rank, barrier

    @property
    def file(self) -> Path | None:
        """The file, whether it exists or not."""
        return self._folder / "metrics.jsonl" if self._folder is not None else None

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a line with the time of day."""
        self.rows.append({"schema": 1, **row, "time": round(time.time(), 3)})
        if self.file is not None and self._rank == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")

    def resume(self, step: int, total: int) -> None:
        """Take the lines of an interrupted run up to a step, and cut the rest from the file.

        The last validation of a finished run is cut too, because the resumed run scores it once more.
        """
        if self.file is None:
            return
        rows = (row for row in read_metrics(self.file) if row["step"] <= step)
        self.rows = [row for row in rows if (row["kind"], row["step"]) != ("valid", total)]
        self._barrier()  # every process has read the file before the first one rewrites it
        if self._rank == 0 and self.file.exists():
            write_text(self.file, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._barrier()
