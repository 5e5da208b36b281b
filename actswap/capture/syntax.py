"""Trees of Python source, one thread at a time.

CPython to 3.12 keeps the depth of the trees that it converts in one place for all threads. Two that convert at the same
time can end in "SystemError: AST constructor recursion depth mismatch" (python/cpython#106905).
"""

from __future__ import annotations

import ast
import threading
from types import CodeType

_one = threading.Lock()
_TRIES = 20  # other threads may convert trees without this lock


def parsed(source: str) -> ast.Module:
    """Return the tree of some source.

    Raises:
        SyntaxError: it is no Python.

    >>> [type(node).__name__ for node in parsed("x = 1").body]
    ['Assign']
    """
    for attempt in range(_TRIES):
        try:
            with _one:
                return ast.parse(source)
        except SystemError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")


def compiled(tree: ast.Module, name: str, flags: int) -> CodeType:
    """Compile a tree into the code of a module.

    Args:
        tree: the module.
        name: the file that tracebacks name.
        flags: of the `__future__` imports that hold in it.

    >>> compiled(parsed("x = 1"), "<text>", 0).co_names
    ('x',)
    """
    for attempt in range(_TRIES):
        try:
            with _one:
                code: CodeType = compile(tree, name, "exec", dont_inherit=True, flags=flags)
                return code
        except SystemError:
            if attempt == _TRIES - 1:
                raise
    raise AssertionError("the last try returns or raises")
