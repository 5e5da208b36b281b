"""A converted network in the Trainer of transformers."""

from __future__ import annotations

import warnings

import pytest
import torch

import actswap
from actswap.errors import DivergenceError
from actswap.io.torchvision_import import import_library
from actswap.train import Ramp
from actswap.train.transformers import ActivationCallback

transformers = import_library("transformers")


def build():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=40,
        max_position_embeddings=16,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


IDS = torch.randint(0, 40, (8, 6), generator=torch.Generator().manual_seed(0))


def train(model, callback, folder, rate):
    data = [{"input_ids": ids, "labels": torch.tensor(k % 2)} for k, ids in enumerate(IDS)]
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=2, logging_steps=1, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0, lr_scheduler_type="constant",
    )  # fmt: skip
    optimizer = torch.optim.SGD(actswap.param_groups(model, weight_decay=0.01), lr=rate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers, about the loader
        trainer = transformers.Trainer(
            model, arguments, train_dataset=data, callbacks=[callback], optimizers=(optimizer, None)
        )
        trainer.train()
    return trainer


def test_trainer_trains_ramps_and_saves(tmp_path):
    model = actswap.convert(build(), "swish", {"input_ids": IDS}, start="morph").model
    site = actswap.plan_of(model).choices[0].path
    callback = ActivationCallback({"morph": Ramp(0.0, 1.0)}, out=tmp_path / "bundle")
    trainer = train(model, callback, tmp_path, 1e-2)
    assert trainer.state.global_step == 8 and model.get_submodule(site).t == 1.0
    loaded = actswap.load(callback.bundle, build())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IDS).logits, model.eval()(IDS).logits)


def test_a_run_that_diverges_is_stopped(tmp_path):
    model = actswap.convert(build(), "acon_c", {"input_ids": IDS}).model
    with pytest.raises(DivergenceError, match="diverged at step"):
        train(model, ActivationCallback(out=tmp_path / "bundle"), tmp_path, 1e6)
    assert not (tmp_path / "bundle").exists()
