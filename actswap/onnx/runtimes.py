"""What each runtime needs of a file: the options of an export by the name of the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """The options that suit a runtime.

    Attributes:
        format: `onnx`, or `pt2` for what reads exported programs of torch.
        decompose: standard operators alone.
        dynamic_batch: the batch may vary.
        dynamic_size: heights, widths and lengths may vary.
        simplify: fold scales into the layers around. It moves weights towards the end of float16's range, so it is off
            for runtimes that compute in float16 by themselves.
        why: in words.
    """

    format: str = "onnx"
    decompose: bool = True
    dynamic_batch: bool = True
    dynamic_size: bool = True
    simplify: bool = True
    why: str = ""

    def options(self) -> dict[str, object]:
        """Return the options of `actswap export` by their names there."""
        return {
            "form": self.format,
            "decompose": self.decompose,
            "dynamic_batch": self.dynamic_batch,
            "dynamic_size": self.dynamic_size,
            "simplify": self.simplify,
        }


RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(decompose=False, why="runs function bodies, and the kernels of actswap in their place"),
    "web": Runtime(decompose=False, why="onnxruntime-web runs function bodies"),
    "openvino": Runtime(why="knows no functions"),
    "tensorrt": Runtime(dynamic_size=False, simplify=False, why="knows no functions; float16 by choice of its builder"),
    "tract": Runtime(dynamic_batch=False, dynamic_size=False, why="knows no functions; wants sizes"),
    "ncnn": Runtime(dynamic_batch=False, dynamic_size=False, simplify=False, why="pnnx wants sizes; stores float16"),
    "mnn": Runtime(dynamic_batch=False, dynamic_size=False, simplify=False, why="wants sizes; may compute in float16"),
    "coreml": Runtime("pt2", why="coremltools reads programs of torch, and no ONNX any more"),
    "tflite": Runtime("pt2", why="LiteRT's converter reads programs of torch"),
}
