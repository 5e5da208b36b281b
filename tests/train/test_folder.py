"""Image folders are read as their names say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actswap.errors import UsageError
from actswap.train import load_data


def images(root, split, classes=("cat", "dog"), count=3, size=(20, 14)):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for name in classes:
        (root / split / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            image.fromarray(pixels).save(root / split / name / f"{i}.png")


def test_an_image_folder_is_read(tmp_path):
    images(tmp_path, "train")
    images(tmp_path, "val", ("dog",))
    data = load_data(str(tmp_path), 16)
    assert len(data.train) == 6 and [label for _, label in data.train.files] == [0, 0, 0, 1, 1, 1]
    x, label = data.valid[0]
    assert x.shape == (3, 16, 16) and x.dtype == torch.float32 and label == 1 and x.abs().max() < 3
    assert not torch.equal(data.train[0][0], data.train[0][0]) and torch.equal(x, data.valid[0][0])
    images(tmp_path, "val2", ("dog",))
    (tmp_path / "val/bird").mkdir()
    with pytest.raises(UsageError, match="bird"):
        load_data(str(tmp_path), 16)
