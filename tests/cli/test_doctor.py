"""`actswap doctor`: versions and kernels; exit code 4 if something needed is missing."""

import importlib.metadata

from actswap.cli import doctor


def test_everything_is_here(ask):
    code, data, _ = ask("doctor")
    assert code == 0 and data["missing"] == []
    assert data["packages"]["torch"] == importlib.metadata.version("torch")


def test_a_missing_package_is_named_and_the_code_is_4(ask, monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor, "version", version, raising=False)
    code, data, _ = ask("doctor")
    assert code == 4 and data["missing"] == ["onnxruntime"]
