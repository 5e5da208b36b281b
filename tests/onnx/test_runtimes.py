"""The options by runtime are options of `actswap export`, and what they promise holds."""

import pytest

from actswap.cli.export import _RUNTIMES, command
from actswap.onnx.runtimes import RUNTIMES


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_option_is_one_of_the_command(name):
    runtime = RUNTIMES[name]
    assert set(runtime.options()) <= {parameter.name for parameter in command.params}
    assert runtime.why and (runtime.format == "onnx" or runtime.decompose)


def test_the_command_names_them_all():
    assert set(_RUNTIMES) == set(RUNTIMES)
