"""Fine-tuning of converted networks."""

from actswap.train.config import Ramp, TuneConfig
from actswap.train.data import Data
from actswap.train.evaluate import evaluate
from actswap.train.follow import Follow, check_optimizer
from actswap.train.groups import activation_parameters, param_groups
from actswap.train.loop import tune
from actswap.train.norm import reestimate
from actswap.train.report import TuneReport, draw_curve
from actswap.train.source import load_data

__all__ = [
    "Data",
    "Follow",
    "Ramp",
    "TuneConfig",
    "TuneReport",
    "activation_parameters",
    "check_optimizer",
    "draw_curve",
    "evaluate",
    "load_data",
    "param_groups",
    "reestimate",
    "tune",
]
