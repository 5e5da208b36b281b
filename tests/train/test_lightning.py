"""A converted network in Lightning's own Trainer."""

from __future__ import annotations

import warnings

import pytest
import torch
from small_net import SmallNet
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import actswap
from actswap.errors import UsageError
from actswap.train import Ramp, activation_parameters
from actswap.train.lightning import ActivationCallback

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Lightning, about its own imports
    import pytorch_lightning as lightning


class Classifier(lightning.LightningModule):
    """As in Lightning's own examples."""

    def __init__(self, model, parameters=None) -> None:
        super().__init__()
        self.model, self.chosen = model, parameters

    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, index):
        x, y = batch
        return functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        groups = actswap.param_groups(self, weight_decay=0.01) if self.chosen is None else self.chosen(self)
        return torch.optim.AdamW(groups, lr=1e-3)


def fit(module, callback, folder):
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(12, 3, 8, 8, generator=generator), torch.randint(0, 5, (12,), generator=generator))
    trainer = lightning.Trainer(
        max_epochs=2, accumulate_grad_batches=2, accelerator="cpu", callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers of the loader
        trainer.fit(module, DataLoader(data, batch_size=3))
    return trainer


def test_lightning_trains_ramps_and_saves(image, tmp_path):
    torch.manual_seed(0)
    network = actswap.convert(SmallNet().eval(), "swish", image, start="morph").model
    before = {name: p.detach().clone() for name, p in activation_parameters(network).items()}
    callback = ActivationCallback({"morph": Ramp(0.0, 1.0)}, out=tmp_path / "bundle")
    module = Classifier(network)
    trainer = fit(module, callback, tmp_path)
    assert trainer.global_step == 4 and network.act.t == 1.0  # two batches make a step
    loaded = actswap.load(callback.bundle, SmallNet())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(image), module.eval()(image))
    assert not any(torch.equal(before[name], p) for name, p in activation_parameters(network).items())


def test_an_optimizer_without_the_activations_is_refused_before_the_first_step(image, tmp_path):
    network = actswap.convert(SmallNet().eval(), "acon_c", image).model
    module = Classifier(network, lambda module: module.model.head.parameters())
    with pytest.raises(UsageError, match="trains none of the 12 activation parameters"):
        fit(module, ActivationCallback(), tmp_path)
