"""Networks of many toolkits, built small from the toolkits' own configurations, and saved as the toolkits save them.

`benchmarks/toolkits.py` runs them. A row of `TOOLKITS` says how to build a network, what it runs on, what its toolkit
writes, and how its toolkit trains it. What each needs installed stands in `toolkits-requirements.txt`.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from toolkit_models import (
    Call,
    clip,
    clip_call,
    crdnn,
    fastai_call,
    fastai_net,
    graph_call,
    graph_net,
    monai_call,
    monai_unet,
    smp_unet,
    speech_call,
    unet,
    unet_call,
    vae,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import actswap
from actswap.io.torchvision_import import import_library
from actswap.train import Follow, Ramp

import_library("torchvision")  # most toolkits import it, whether or not it fits the torch that is installed


@dataclass(frozen=True)
class Toolkit:
    """One row of the table.

    Attributes:
        build: makes the network from a configuration, with weights of its own seed.
        call: what it runs on.
        write: saves it as its toolkit does; returns the file or folder.
        train: trains a converted network for a few steps in the toolkit's own trainer, and saves the bundle in `out`.
        options: how `load_model` opens the file: `model`, `allow`, `trust_pickle`, `key`.
        export: keyword arguments for the export, e.g. `use_cache`.
        dtype: the precision of the file.
        target: the activation.
    """

    build: Callable[[], nn.Module]
    call: Callable[[], Call]
    write: Callable[[nn.Module, Path], Path]
    train: Callable[[nn.Module, Path, Path], None]
    options: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    target: str = "acon_c"


def picture(side: int = 64, batch: int = 2, channels: int = 3) -> Callable[[], Call]:
    """Return a maker of pictures."""
    return lambda: ((torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(0)),), {})


def tokens() -> Call:
    """Return token ids for a language model."""
    return (), {"input_ids": torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(0))}


def plain_loop(call: Callable[[], Call]) -> Callable[[nn.Module, Path, Path], None]:
    """Train in a loop of one's own: the four lines of docs/toolkits.md."""

    def train(model: nn.Module, folder: Path, out: Path) -> None:
        args, kwargs = call()
        optimizer = torch.optim.AdamW(actswap.param_groups(model, weight_decay=0.01), lr=1e-4)
        follow = Follow(model.train(), 3, ramps(model), out=out)
        for _ in range(3):
            optimizer.zero_grad()
            outputs = floats(model(*args, **kwargs))
            loss = sum((t.float() * torch.linspace(-1, 1, t.numel()).view(t.shape)).sum() for t in outputs)
            loss.backward()
            optimizer.step()
            follow.step(loss)
        follow.finish()

    return train


def ramps(model: nn.Module) -> dict[str, Ramp]:
    """Return the schedule that a network needs which begins with morphs: at t = 0 their targets have no gradient."""
    plan = actswap.plan_of(model)
    morphs = plan is not None and any(choice.start.kind == "morph" for choice in plan.choices)
    return {"morph": Ramp(0.0, 1.0)} if morphs else {}


def floats(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output."""
    from actswap.capture.observe import tensors_of

    return [t for t in tensors_of(output) if t.is_floating_point()]


def state_dict(model: nn.Module, folder: Path) -> Path:
    """Write the weights alone."""
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def pretrained(model: nn.Module, folder: Path) -> Path:
    """Write the folder of `save_pretrained`."""
    model.save_pretrained(folder / "model")  # type: ignore[operator]
    return folder / "model"


def here(name: str) -> dict[str, Any]:
    """Return the options that build a network by a function of toolkit_models."""
    return {"model": f"toolkit_models:{name}"}


# ultralytics


def yolo(config: str, half: bool = False) -> Toolkit:
    """Return a detector of ultralytics, whose files hold half precision."""

    def build() -> nn.Module:
        from ultralytics import YOLO

        torch.manual_seed(0)
        return YOLO(f"{config}.yaml").model.eval()

    def write(model: nn.Module, folder: Path) -> Path:
        content = {"epoch": -1, "model": (model.half() if half else model), "ema": None, "train_args": {}}
        torch.save(content, folder / "best.pt")
        return folder / "best.pt"

    def train(model: nn.Module, folder: Path, out: Path) -> None:
        import numpy as np
        from PIL import Image
        from ultralytics.models.yolo.detect import DetectionTrainer

        for part in ("images", "labels"):
            (folder / part).mkdir()
        for k in range(2):
            Image.fromarray(np.full((64, 64, 3), 90 * k, np.uint8)).save(folder / f"images/{k}.png")
            (folder / f"labels/{k}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
        (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {{0: thing}}\n")

        class Trainer(DetectionTrainer):
            """The trainer builds its network from a yaml file; ours takes the converted one."""

            def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
                return model.float()

            def set_model_attributes(self) -> None:
                model.args = self.args  # type: ignore[assignment]

        options = {"epochs": 1, "imgsz": 64, "batch": 2, "workers": 0, "plots": False, "val": False, "amp": False}
        options |= {
            "data": str(folder / "data.yaml"),
            "device": "cpu",
            "project": str(folder),
            "model": f"{config}.yaml",
        }
        trainer = Trainer(overrides={**options, "save": False, "optimizer": "SGD", "warmup_epochs": 0})
        trainer.train()
        actswap.save(trainer.model, out)

    dtype = torch.float16 if half else torch.float32
    return Toolkit(build, picture(), write, train, {"allow": ["ultralytics"]}, dtype=dtype)


# Lightning, timm


class Lit:
    """Builds a LightningModule around a small network; the class needs Lightning."""

    @staticmethod
    def module(network: nn.Module) -> nn.Module:
        """Return a LightningModule that trains a classifier."""
        import pytorch_lightning

        class Classifier(pytorch_lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = network

            def forward(self, x: Tensor) -> Tensor:
                return self.model(x)

            def training_step(self, batch: Any, index: int) -> Tensor:
                return functional.cross_entropy(self(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                return torch.optim.AdamW(actswap.param_groups(self, weight_decay=0.01), lr=1e-4)

        return Classifier()

    @staticmethod
    def trainer(folder: Path, *callbacks: Any) -> Any:
        """Return a silent Trainer."""
        import pytorch_lightning

        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        return pytorch_lightning.Trainer(
            max_steps=2, accelerator="cpu", callbacks=list(callbacks), default_root_dir=folder,
            enable_model_summary=False, **quiet,
        )  # fmt: skip

    @staticmethod
    def train(model: nn.Module, folder: Path, out: Path) -> None:
        """Train with the callback, which saves the bundle."""
        from actswap.train.lightning import ActivationCallback

        data = TensorDataset(torch.randn(4, 3, 64, 64), torch.randint(0, 10, (4,)))
        trainer = Lit.trainer(folder, ActivationCallback(ramps(model), out=out))
        trainer.fit(Lit.module(model), DataLoader(data, batch_size=2))

    @staticmethod
    def write(model: nn.Module, folder: Path) -> Path:
        """Write a checkpoint of Lightning."""
        trainer = Lit.trainer(folder)
        trainer.strategy.connect(Lit.module(model))
        trainer.save_checkpoint(folder / "last.ckpt")
        return folder / "last.ckpt"


def resnet10() -> nn.Module:
    """Return a small ResNet of timm."""
    torch.manual_seed(0)
    return import_library("timm").create_model("resnet10t", num_classes=10).eval()


def timm_ema(model: nn.Module, folder: Path) -> Path:
    """Write a checkpoint of timm's training script: weights and their average, which differ."""
    from copy import deepcopy

    other = deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    content = {"epoch": 3, "arch": "resnet10t", "state_dict": other.state_dict(), "state_dict_ema": model.state_dict()}
    torch.save(content, folder / "checkpoint.pth.tar")
    return folder / "checkpoint.pth.tar"


# transformers, PEFT


def bert() -> nn.Module:
    """Return a small BERT that classifies."""
    lib = import_library("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return lib.BertForSequenceClassification(lib.BertConfig(vocab_size=50, max_position_embeddings=32, **sizes)).eval()


def llama() -> nn.Module:
    """Return a small Llama."""
    lib = import_library("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = lib.LlamaConfig(vocab_size=50, intermediate_size=64, max_position_embeddings=64, **sizes)
    return lib.LlamaForCausalLM(config).eval()


def hugging_face(
    build: Callable[[], nn.Module], dtype: torch.dtype = torch.float32, shard: str = "5GB", **export: Any
) -> Toolkit:
    """Return a model of transformers, in a precision, saved in shards of a size."""

    def write(model: nn.Module, folder: Path) -> Path:
        model.to(dtype).save_pretrained(folder / "model", max_shard_size=shard)  # type: ignore[operator]
        return folder / "model"

    return Toolkit(build, tokens, write, hf_train, export=export, dtype=dtype)


def hf_train(model: nn.Module, folder: Path, out: Path) -> None:
    """Train with the callback, which saves the bundle."""
    lib = import_library("transformers")
    from actswap.train.transformers import ActivationCallback

    model = model.float()
    ids = tokens()[1]["input_ids"].repeat(2, 1)
    causal = model.config.model_type == "llama"  # type: ignore[union-attr]
    data = [{"input_ids": row, "labels": row if causal else torch.tensor(k % 2)} for k, row in enumerate(ids)]
    arguments = lib.TrainingArguments(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(actswap.param_groups(model, weight_decay=0.01), lr=1e-4)
    callbacks = [ActivationCallback(ramps(model), out=out)]
    lib.Trainer(model, arguments, train_dataset=data, callbacks=callbacks, optimizers=(optimizer, None)).train()


def peft_train(model: nn.Module, folder: Path, out: Path) -> None:
    """Put LoRA on a converted network, train both, merge, save."""
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for parameter in actswap.train.activation_parameters(wrapped).values():
        parameter.requires_grad_(True)  # LoRA froze them
    hf_train(wrapped, folder, out)
    actswap.save(wrapped.merge_and_unload(), out)


def fastai_train(model: nn.Module, folder: Path, out: Path) -> None:
    """Train with fastai's Learner."""
    lib = import_library("fastai.learner")
    data = import_library("fastai.data.core")
    rows = [(torch.zeros(0, dtype=torch.long), torch.randn(4), torch.tensor(k % 3)) for k in range(8)]
    loader = import_library("fastai.data.load").DataLoader(rows, bs=4)
    learner = lib.Learner(data.DataLoaders(loader, loader), model, loss_func=nn.CrossEntropyLoss(), path=folder)
    learner.dls.n_inp = 2
    learner.fit(1, 1e-4)
    actswap.save(learner.model, out)


def fastai_export(model: nn.Module, folder: Path) -> Path:
    """Write what Learner.save writes: model and optimizer."""
    torch.save({"model": model.state_dict(), "opt": {"state": [], "hypers": []}}, folder / "model.pth")
    return folder / "model.pth"


def pickled(model: nn.Module, folder: Path) -> Path:
    """Write the whole module."""
    torch.save(model, folder / "model.pt", pickle_module=pickle)
    return folder / "model.pt"


half, brain = torch.float16, torch.bfloat16
TOOLKITS: dict[str, Toolkit] = {
    "ultralytics v8 half": yolo("yolov8n", half=True),
    "ultralytics v8": yolo("yolov8n"),
    "ultralytics 11": yolo("yolo11n"),
    "ultralytics 26": yolo("yolo26n"),
    "Lightning": Toolkit(resnet10, picture(), Lit.write, Lit.train, {"model": "timm:resnet10t?num_classes=10"}),
    "timm with EMA": Toolkit(
        resnet10, picture(), timm_ema, plain_loop(picture()), {"model": "timm:resnet10t?num_classes=10"}
    ),
    "transformers BERT": hugging_face(bert),
    "transformers BERT bf16": hugging_face(bert, brain),
    "transformers BERT f16": hugging_face(bert, half),
    "transformers BERT sharded": hugging_face(bert, shard="20KB"),
    "transformers Llama": hugging_face(llama, use_cache=False),
    "PEFT on Llama": Toolkit(llama, tokens, pretrained, peft_train, export={"use_cache": False}),
    "diffusers UNet": Toolkit(unet, unet_call, pretrained, plain_loop(unet_call)),
    "diffusers VAE": Toolkit(vae, picture(16), pretrained, plain_loop(picture(16))),
    "MONAI UNet": Toolkit(monai_unet, monai_call, state_dict, plain_loop(monai_call), here("monai_unet")),
    "smp Unet": Toolkit(
        smp_unet, picture(), pickled, plain_loop(picture()), {"allow": ["segmentation_models_pytorch"]}
    ),
    "open_clip": Toolkit(clip, clip_call, state_dict, plain_loop(clip_call), here("clip")),
    "PyG": Toolkit(graph_net, graph_call, state_dict, plain_loop(graph_call), here("graph_net")),
    "fastai": Toolkit(fastai_net, fastai_call, fastai_export, fastai_train, here("fastai_net")),
    "speechbrain CRDNN": Toolkit(crdnn, speech_call, state_dict, plain_loop(speech_call), here("crdnn")),
}
