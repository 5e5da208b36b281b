"""Where a search keeps its state: a journal file on one machine, a database or a gRPC proxy on many."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock, get_lock_file

from actswap.errors import UsageError, first_line

_PACKAGES = {"grpc": "grpcio", "MySQLdb": "mysqlclient"}  # modules whose package has another name
_WAIT = 10.0  # seconds for a storage server to answer


def open_storage(url: str | None) -> BaseStorage | None:
    """Open what a search keeps its state in.

    Args:
        url: a file (a journal, for processes of one machine), `grpc://HOST:PORT` (a proxy that `optuna.storages.
            run_grpc_proxy_server` serves), any URL of a database, or None for memory.

    Raises:
        UsageError: it cannot be reached.
    """
    if url is None:
        return None
    try:
        if url.startswith("grpc://"):
            host, _, port = url.removeprefix("grpc://").partition(":")
            proxy = GrpcStorageProxy(host=host, port=int(port or 13000))
            proxy.wait_server_ready(_WAIT)
            return proxy
        if "://" in url:
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        return _journal(Path(url))
    except Exception as error:  # each back end has errors of its own
        name = error.name if isinstance(error, ImportError) else None
        missing = f"pip install {_PACKAGES.get(name, name)}, or " if name else ""
        raise UsageError(
            f"the storage {url} cannot be opened",
            why=_reason(error),
            fix=f"{missing}--storage search.journal, sqlite:///search.db, postgresql://HOST/NAME or grpc://HOST:PORT",
        ) from error


class _Lock(BaseJournalFileLock):
    """A lock that the system releases if its holder is killed; Optuna's own is then waited for during 30 s."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._held = threading.local()  # a worker's two threads both write

    def acquire(self) -> bool:
        self._held.file = open(self._path, "ab")  # noqa: SIM115  # it is closed by release
        fcntl.flock(self._held.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._held.file.close()


def _journal(path: Path) -> JournalStorage:
    """Open a journal file.

    A writer that was killed may leave half a line, after which Optuna would read nothing more: it is cut off.
    """
    lock = _Lock(path)
    backend = JournalFileBackend(str(path), lock)
    with get_lock_file(lock), open(path, "rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
    return JournalStorage(backend)


def _reason(error: BaseException) -> str:
    """Return the first line of the innermost cause, which is what the user can act on."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
