"""The switch says who computes, for the process or for a block, and comes back."""

import pytest

from actswap import ops
from actswap.errors import UsageError


@pytest.mark.parametrize("name", ["reference", "native", "triton", "auto"])
def test_a_block_ends_with_the_backend_that_it_found(name):
    with ops.backend("reference"):
        with pytest.raises(ValueError), ops.backend(name):
            assert ops.current_backend() == name
            raise ValueError
        assert ops.current_backend() == "reference"
    assert ops.current_backend() == "auto"


def test_an_unknown_backend_is_refused_and_changes_nothing():
    with pytest.raises(UsageError, match="auto, reference, native, triton"):
        ops.backend("cuda")
    assert ops.current_backend() == "auto"
