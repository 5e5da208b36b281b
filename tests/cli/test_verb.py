"""What all verbs share: options, answers and how they are printed."""

import json
import math

import click
import pytest
from click.testing import CliRunner

from actswap.cli.verb import Answer, ModelOptions, again, key_values, progress, verb
from actswap.errors import UsageError


def test_option_values_are_literals_or_plain_words():
    assert key_values(["space=layer", "degrees=(7, 6)", "noise=0.5", "bn=True", "a=b=c"]) == {
        "space": "layer", "degrees": (7, 6), "noise": 0.5, "bn": True, "a": "b=c",
    }  # fmt: skip
    for bad in ("space", "=layer", "2x=1"):
        with pytest.raises(UsageError, match="not understood"):
            key_values([bad])


@verb(click.option("--code", type=int, default=0))
def speak(code: int) -> Answer:
    print("noise of a library")
    return Answer({"number": math.inf, "text": "yes"}, ["shown to people"], code)


def test_an_answer_is_a_text_or_one_json_object_and_has_an_exit_code():
    result = CliRunner().invoke(speak, [])
    assert result.stdout == "shown to people\n" and "noise" in result.stderr and result.exit_code == 0
    result = CliRunner().invoke(speak, ["--json", "--code", "3"])
    answer = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert answer["schema"] == 1 and answer["text"] == "yes" and result.exit_code == 3


def test_no_bar_is_drawn_if_stderr_is_no_terminal(capsys):
    with progress() as update:
        if update is not None:
            update(1, 2, "step")
    assert capsys.readouterr() == ("", "")


def test_keyword_arguments_that_are_no_tensors_are_printed_as_they_are_typed():
    assert key_values(["use_cache=false", "mode=none", "scale=2.5"], "--kwarg") == {
        "use_cache": False,
        "mode": None,
        "scale": 2.5,
    }
    with pytest.raises(UsageError, match="--kwarg 'use_cache' is not understood"):
        key_values(["use_cache"], "--kwarg")
    said = again("actswap", "export", "m", how=ModelOptions(), specs=["1,3", "kwarg:use_cache=false"])
    assert said == "actswap export m --input 1,3 --kwarg use_cache=false"
