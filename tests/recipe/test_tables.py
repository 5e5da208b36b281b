"""The tables' defaults are those of the functions that they are passed to."""

import inspect

from actswap.conversion.pipeline import convert
from actswap.onnx.export import export_onnx
from actswap.recipe.tables import ConvertTable, ExportTable


def default(function, name: str):
    return inspect.signature(function).parameters[name].default


def test_defaults_are_those_of_convert_and_export():
    table = ConvertTable("acon_c")
    assert table.start == default(convert, "start") and table.tolerance == default(convert, "tolerance")
    assert ExportTable().dynamic_batch == default(export_onnx, "dynamic_batch")


def test_what_is_asked_is_a_target_or_targets_by_selector():
    assert ConvertTable("acon_c").asked == "acon_c"
    assert ConvertTable(targets={"*": "pau"}).asked == {"*": "pau"}
