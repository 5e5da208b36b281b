"""ACON-A: the smooth form of ReLU, which is Swish (Ma et al. 2021, Table 1)."""

from __future__ import annotations

from actswap.activations.swish import swish, swish_formula

__all__ = ["swish", "swish_formula"]
