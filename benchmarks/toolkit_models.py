"""Small networks of diffusers, MONAI, segmentation-models-pytorch, open_clip, PyG, fastai and speechbrain."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from actswap.io.torchvision_import import import_library

Call = tuple[tuple[Any, ...], dict[str, Any]]


def unet() -> nn.Module:
    """Return a small UNet2DConditionModel of diffusers."""
    lib = import_library("diffusers")
    torch.manual_seed(0)
    return lib.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=8, norm_num_groups=4,
        attention_head_dim=4, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


def unet_call() -> Call:
    """Return a noisy picture, a time and a text."""
    g = torch.Generator().manual_seed(0)
    text = torch.randn(2, 4, 8, generator=g)
    return (), {
        "sample": torch.randn(2, 4, 8, 8, generator=g),
        "timestep": torch.tensor([3, 7]),
        "encoder_hidden_states": text,
    }


def vae() -> nn.Module:
    """Return a small AutoencoderKL of diffusers."""
    lib = import_library("diffusers")
    torch.manual_seed(0)
    return lib.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, sample_size=16,
    ).eval()  # fmt: skip


def monai_unet() -> nn.Module:
    """Return a small UNet of MONAI with PReLU."""
    torch.manual_seed(0)
    sizes = {"channels": (8, 16), "strides": (2,), "num_res_units": 1}
    return import_library("monai.networks.nets").UNet(spatial_dims=2, in_channels=1, out_channels=2, **sizes).eval()


def monai_call() -> Call:
    """Return a picture with metadata."""
    tensor = import_library("monai.data").MetaTensor
    return (tensor(torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))),), {}


def smp_unet() -> nn.Module:
    """Return a Unet of segmentation-models-pytorch."""
    torch.manual_seed(0)
    lib = import_library("segmentation_models_pytorch")
    sizes = {"encoder_weights": None, "encoder_depth": 3, "decoder_channels": (16, 16, 8)}
    return lib.Unet("resnet18", **sizes).eval()


def clip() -> nn.Module:
    """Return a small CLIP of open_clip."""
    lib = import_library("open_clip.model")
    torch.manual_seed(0)
    vision = lib.CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=16, image_size=32)
    text = lib.CLIPTextCfg(context_length=8, vocab_size=64, width=64, heads=2, layers=2)
    return lib.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text).eval()


def clip_call() -> Call:
    """Return pictures and texts."""
    g = torch.Generator().manual_seed(0)
    return (torch.randn(2, 3, 32, 32, generator=g), torch.randint(0, 64, (2, 8), generator=g)), {}


class GraphNet(nn.Module):
    """Two graph convolutions of PyG on a Data object, as in its own examples."""

    def __init__(self) -> None:
        super().__init__()
        layers = import_library("torch_geometric.nn")
        self.one, self.two = layers.GCNConv(4, 16), layers.GCNConv(16, 3)

    def forward(self, data: Any) -> Tensor:
        x = functional.relu(self.one(data.x, data.edge_index))
        return functional.log_softmax(self.two(x, data.edge_index), dim=1)


def graph_net() -> nn.Module:
    """Return a GraphNet."""
    torch.manual_seed(0)
    return GraphNet().eval()


def graph_call() -> Call:
    """Return a ring of nodes."""
    nodes = torch.arange(6)
    edges = torch.stack([nodes, nodes.roll(1)])
    data = import_library("torch_geometric.data").Data
    return (data(x=torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), edge_index=edges),), {}


def fastai_net() -> nn.Module:
    """Return the tabular network of fastai on one continuous column group."""
    torch.manual_seed(0)
    return import_library("fastai.tabular.model").TabularModel([], 4, 3, [16, 8]).eval()


def fastai_call() -> Call:
    """Return no categories and four numbers."""
    return (torch.zeros(8, 0, dtype=torch.long), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))), {}


def crdnn() -> nn.Module:
    """Return a small CRDNN of speechbrain."""
    torch.manual_seed(0)
    try:
        import_library("torchaudio")
    except (ImportError, OSError):  # speechbrain imports it, and this network calls nothing of it
        audio = ModuleType("torchaudio")
        audio.__spec__, audio.__version__ = ModuleSpec("torchaudio", None), torch.__version__  # type: ignore[attr-defined]
        audio.list_audio_backends = lambda: ["none"]  # type: ignore[attr-defined]
        sys.modules["torchaudio"] = audio
    lib = import_library("speechbrain.lobes.models.CRDNN")
    sizes = {"cnn_blocks": 1, "cnn_channels": (8,), "cnn_kernelsize": (3, 3), "rnn_layers": 1, "rnn_neurons": 8}
    return lib.CRDNN(input_shape=[None, None, 16], dnn_blocks=1, dnn_neurons=8, **sizes).eval()


def speech_call() -> Call:
    """Return filter banks."""
    return (torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0)),), {}
