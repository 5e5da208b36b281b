"""Formulas that the fits are tested on, in float64."""

import numpy as np
from scipy.special import erf, expit


def relu(x):
    return np.maximum(x, 0.0)


def gelu(x):
    return 0.5 * x * (1.0 + erf(x / np.sqrt(2.0)))


def silu(x):
    return x * expit(x)


def hardswish(x):
    return x * np.clip(x + 3.0, 0.0, 6.0) / 6.0


def elu(x):
    return np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))


def softplus(x):
    return np.logaddexp(0.0, x)
