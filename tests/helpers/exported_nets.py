"""Networks that hold every activation that can be exported."""

import torch
from onnx_cases import C, Case, cases
from torch import Tensor, nn


class Activation(nn.Module):
    """A case as a module; `log_beta` stands for parameters that are computed from others."""

    def __init__(self, case: Case, dim: int = 1) -> None:
        super().__init__()
        self.case, self.dim = case, dim
        for name, tensor in case.tensors.items():
            self.register_buffer(name, tensor / 2)

    def forward(self, x: Tensor) -> Tensor:
        tensors = [self.get_buffer(name) * 2 for name in self.case.tensors]
        return getattr(torch.ops.actswap, self.case.name)(x, *tensors, *self.case.scalars.values(), self.dim)


BY_LABEL = {case.label: case for case in cases(False)}


PER_LAYER = {case.label: case for case in cases(True)}


def act(label: str, dim: int = 1, shared: bool = False) -> Activation:
    return Activation((PER_LAYER if shared else BY_LABEL)[label], dim)


class Everywhere(nn.Module):
    """One network: pictures, a vector and a sequence, each through activations of its layout."""

    def __init__(self) -> None:
        super().__init__()
        labels = ("acon_c", "meta_acon_channel", "dy_relu_2", "dy_relu_c", "pau_A", "opau_legendre", "swish")
        self.picture = nn.Sequential(
            nn.Conv2d(3, C, 3, padding=1),
            nn.BatchNorm2d(C),
            *(act(n) for n in labels[:4]),
            act("acon_b", shared=True),
        )
        self.vector = nn.Sequential(nn.Linear(C, C), *(act(n) for n in ("acon_c", "meta_acon_channel", "dy_relu_2")))
        self.sequence = nn.Sequential(nn.Linear(C, C), *(act(n, -1) for n in labels), act("meta_acon_layer", -1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.picture(x)
        return {
            "map": y,
            "vector": self.vector(torch.tanh(y.mean((2, 3)))),
            "sequence": self.sequence(torch.tanh(y.flatten(2).transpose(1, 2))),
        }


class Net(nn.Module):
    def __init__(self, *activations: nn.Module, width: int = C) -> None:
        super().__init__()
        self.conv, self.acts, self.head = (
            nn.Conv2d(3, width, 3),
            nn.Sequential(*activations),
            nn.Conv2d(width, 5, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.acts(torch.tanh(self.conv(x)))).mean((2, 3))
