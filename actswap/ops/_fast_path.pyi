from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

def setup(
    run: int,
    small: int,
    table: object,
    tensor: type,
    parameter: type,
    empty_like: Callable[..., Tensor],
    empty: Callable[..., Tensor],
    threads: Callable[[], int],
    grad_enabled: Callable[[], bool],
    levels: dict[str, Any],
    guards: tuple[Callable[[], object], ...],
) -> None: ...

class FastPath:
    def __init__(self, lay: Callable[..., Any], tensors: int, constant: int) -> None: ...
    def __call__(self, *args: Any) -> Tensor | Literal[False] | None: ...
    def forward(self, *args: Any) -> tuple[Tensor, Tensor | None] | None: ...
    def backward(
        self, grad: Tensor, args: tuple[Any, ...], aux: Tensor | None, needs: list[bool]
    ) -> list[Tensor | None] | None: ...
