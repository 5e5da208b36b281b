"""Inference-time algebra on ONNX graphs: one pass per file, each exact or within a bound that its docstring says."""
