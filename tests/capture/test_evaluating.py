"""Evaluating a model disturbs neither it nor what other threads run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from actswap.capture.evaluating import evaluating


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    """Give one other thread."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_fused_attention_is_off_in_this_thread_only(other: ThreadPoolExecutor) -> None:
    """The fused kernel leaves zeros at the padding; the other path computes it."""
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    x, padding = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padding[0, 3:] = True

    @torch.no_grad()
    def padded() -> Tensor:
        return encoder(x, src_key_padding_mask=padding)[0, 3:]

    assert not padded().any()
    with evaluating(encoder):
        assert padded().all()
        assert not other.submit(padded).result().any()
        assert torch.backends.mha.get_fastpath_enabled()
    assert not padded().any()


class Counted(nn.Module):
    """Counts its runs by Python, once per run of the code and not of the compiled form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.runs = nn.Linear(3, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.runs += 1
        return self.linear(x)


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_what_is_compiled_runs_as_written_here_and_compiled_elsewhere(how: str, other: ThreadPoolExecutor) -> None:
    net, x = Counted(), torch.randn(2, 3)
    if how == "wrapped":
        model: nn.Module = nn.Sequential(torch.compile(net, backend="eager"))
    else:
        net.compile(backend="eager")
        model = nn.Sequential(net)
    seen = []
    with evaluating(model):
        model(x)
        seen.append(net.runs)
        other.submit(model, x).result()
        seen.append(net.runs)
    assert seen == [1, 1]
    assert net.runs == 0


def test_two_threads_look_at_one_model_after_each_other(other: ThreadPoolExecutor) -> None:
    """Otherwise the second would take the first's eval mode for the model's own, and leave it."""
    model, inside = nn.Dropout(), threading.Event()

    def second() -> bool:
        inside.set()
        with evaluating(model):
            return model.training

    with evaluating(model):
        waiting = other.submit(second)
        assert inside.wait(10)
        assert not waiting.done()
    assert not waiting.result(10)
    assert model.training


def test_everything_is_put_back_after_an_error() -> None:
    model, call = nn.Sequential(nn.BatchNorm1d(3), torch.compile(nn.Linear(3, 3), backend="eager")), nn.Module.__call__
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert nn.Module.__call__ is not call
        raise ZeroDivisionError
    assert nn.Module.__call__ is call
    assert model.training
    assert torch.is_grad_enabled()
