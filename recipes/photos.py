"""Data of the recipes on real weights: the twenty labelled photos that come with foolbox, for training and judging."""

from __future__ import annotations

from torch.utils.data import TensorDataset

from actswap.train import Data


def squeezenet() -> Data:
    """Return the photos as SqueezeNet wants them, (20, 3, 227, 227), with their ImageNet classes."""
    from recipes import realmodels

    photos = TensorDataset(realmodels.squeezenet_inputs(), realmodels.photo_labels())
    return Data(photos, photos)
