"""Libraries are found under the names of Linux, macOS and Windows, in the package or beside it."""

import pytest

from actswap.ops import libraries

NAMES = {"linux": "libactswap_ort.so", "darwin": "libactswap_ort.dylib", "win32": "actswap_ort.dll"}


@pytest.mark.parametrize(("platform", "name"), NAMES.items())
def test_the_usual_name_of_each_system(platform, name):
    assert libraries.file_names("actswap_ort", platform)[0] == name
    assert libraries.stem_of(name) == "actswap_ort"


def test_files_of_a_build_are_told_apart():
    found = {
        "libactswap_kernels.dylib": "actswap_kernels",
        "_fast_path.cpython-311-darwin.so": "_fast_path",
        "_fast_path.cp311-win_amd64.pyd": "_fast_path",
        "libactswap_kernels.a": None,
        "libm.so": None,
    }
    assert {name: libraries.stem_of(name) for name in found} == found


@pytest.mark.parametrize("platform", NAMES)
def test_a_library_beside_the_package_is_found(platform, tmp_path, monkeypatch):
    monkeypatch.delenv("ACTSWAP_ORT_LIBRARY", raising=False)
    monkeypatch.setattr(libraries, "PACKAGE", tmp_path / "none")
    monkeypatch.setattr(libraries.sys, "platform", platform)
    assert libraries.find("actswap_ort", [str(tmp_path)]) is None
    file = tmp_path / "actswap" / "onnx" / NAMES[platform]
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(libraries, "file_names", lambda stem: [NAMES[platform]])
    assert libraries.find("actswap_ort", [str(tmp_path)]) == file
    monkeypatch.setenv("ACTSWAP_ORT_LIBRARY", "/elsewhere/other.so")
    assert str(libraries.find("actswap_ort")) == "/elsewhere/other.so"
