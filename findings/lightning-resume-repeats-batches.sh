#!/bin/sh
# Lightning 2.6.6: a fit resumed from a checkpoint of the middle of an epoch runs as many batches as were left, but
# takes the first ones of a fresh pass over the loader. Some samples are seen twice and some never, also with a loader
# that does not shuffle, and the loss curve shows nothing.
#
# Seen (10 samples, batches of one in order, stopped after 4):
#   before [0, 1, 2, 3], after [0, 1, 2, 3, 4, 5], never [6, 7, 8, 9]
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 lightning==2.6.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import warnings

warnings.simplefilter("ignore")
import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, index):
        self.seen += batch[0].flatten().int().tolist()
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def fit(path=None, **options):
    model = Model()
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    data = TensorDataset(torch.arange(10.0)[:, None])
    trainer.fit(model, DataLoader(data, batch_size=1, shuffle=False), ckpt_path=path)
    return model.seen


keep = ModelCheckpoint("kept", filename="middle", every_n_train_steps=4, save_top_k=-1)
before = fit(max_steps=4, callbacks=[keep])
after = fit("kept/middle.ckpt", max_epochs=1, enable_checkpointing=False)
never = sorted({*range(10)} - {*before, *after})
print(f"before {before}, after {after}, never {never}")
sys.exit(0 if (after, never) == ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9]) else 1)
PYTHON
