"""What holds for every test and for the examples in docstrings: nothing depends on chance, load or the network."""

from __future__ import annotations

import os
import random

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

# `make test` draws the same examples on every run; `make fuzz` draws fresh ones and prints how to repeat a failure.
_PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # a busy machine is no failure
settings.register_profile("test", derandomize=True, **_PATIENT)
settings.register_profile("fuzz", derandomize=False, print_blob=True, **_PATIENT)
settings.load_profile("test")

collect_ignore_glob = ["actswap/ops/triton/*"]  # the examples there would need triton and a GPU


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed every generator before the fixtures of each test, so that tests pass in any order."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
