"""Image folders: `root/train/CLASS/*` and `root/val/CLASS/*`, read with Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from actswap.errors import UsageError
from actswap.train.data import Data

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})
IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), dtype=np.float32)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), dtype=np.float32)


@dataclass(frozen=True)
class ImageFolder(Dataset[Any]):
    """Images of one split as (3, size, size) float tensors, normalised with ImageNet's mean and deviation.

    Attributes:
        files: (path, class index) pairs.
        size: side in pixels.
        random: True takes a random resized crop (area 0.35 to 1) and flips at random, for training; False resizes to
            8/7 of the size and takes the centre.
    """

    files: tuple[tuple[Path, int], ...]
    size: int
    random: bool

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        path, label = self.files[index]
        with Image.open(path) as file:
            image = file.convert("RGB")
        pixels = np.asarray(self._random_crop(image) if self.random else self._centre_crop(image), dtype=np.float32)
        if self.random and torch.rand(()) < 0.5:
            pixels = pixels[:, ::-1]
        scaled = (pixels / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1))), label

    def _random_crop(self, image: Image) -> Image:
        width, height = image.size
        area = float(torch.empty(()).uniform_(0.35, 1.0)) * width * height
        ratio = float(torch.empty(()).uniform_(-0.2877, 0.2877).exp())  # 3/4 to 4/3
        across, down = min(width, round((area * ratio) ** 0.5)), min(height, round((area / ratio) ** 0.5))
        left, top = (int(torch.randint(0, room + 1, ())) for room in (width - across, height - down))
        return image.resize((self.size, self.size), 2, box=(left, top, left + across, top + down))

    def _centre_crop(self, image: Image) -> Image:
        width, height = image.size
        side = min(width, height) * 7 / 8
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((self.size, self.size), 2, box=(left, top, left + side, top + side))


def image_folder(root: Path, size: int) -> Data:
    """Read `root/train/CLASS/*` and, if it exists, `root/val/CLASS/*`.

    Classes are numbered in sorted order.

    Raises:
        UsageError: no Pillow, no `train` folder, no images, or a class in `val` that `train` does not have.
    """
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UsageError("an image folder needs Pillow", why=str(error), fix="pip install pillow") from error
    train = root / "train"
    if not train.is_dir():
        raise UsageError(
            f"no training images in {root}",
            why=f"{train} is not a folder",
            fix="put images under train/CLASS/",
        )
    classes = sorted(path.name for path in train.iterdir() if path.is_dir())
    valid = root / "val"
    return Data(
        ImageFolder(_files(train, classes), size, random=True),
        ImageFolder(_files(valid, classes), size, random=False) if valid.is_dir() else None,
    )


def _files(folder: Path, classes: list[str]) -> tuple[tuple[Path, int], ...]:
    unknown = sorted({path.name for path in folder.iterdir() if path.is_dir()} - set(classes))
    if unknown:
        raise UsageError(f"classes in {folder} that train has not: {', '.join(unknown)}")
    found = tuple(
        (path, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for path in sorted((folder / name).iterdir())
        if path.suffix.lower() in EXTENSIONS
    )
    if not found:
        raise UsageError(f"no images in {folder}", why=f"looked for CLASS/*{{{','.join(sorted(EXTENSIONS))}}}")
    return found
