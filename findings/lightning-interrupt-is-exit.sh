#!/bin/sh
# Lightning 2.6.6: a KeyboardInterrupt in Trainer.fit leaves it as SystemExit(1). Code round fit that catches
# KeyboardInterrupt, to keep what was learned so far or to return to its own loop, is passed by, and the process ends.
#
# Seen:
#   raised: KeyboardInterrupt; out of fit: SystemExit(1)
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
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, index):
        if index == 2:
            raise KeyboardInterrupt
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, **quiet)
try:
    trainer.fit(Model(), DataLoader(TensorDataset(torch.ones(4, 1))))
except BaseException as error:
    print(f"raised: KeyboardInterrupt; out of fit: {error!r}")
    sys.exit(0 if type(error) is SystemExit and error.code == 1 else 1)
sys.exit(1)
PYTHON
