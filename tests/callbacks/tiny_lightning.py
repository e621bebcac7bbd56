"""A LightningModule small enough to train many times in a test."""

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

DRAW = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 6, generator=DRAW), torch.randn(48, 2, generator=DRAW)
BATCHES = 4  # of 12, hence 4 steps per epoch


class Tiny(lightning.LightningModule):
    """Two hidden layers; `scheduler` makes a learning-rate scheduler of an optimizer."""

    def __init__(self, optimizer=torch.optim.AdamW, scheduler=None):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(8, 2))
        self.make, self.scheduler = optimizer, scheduler

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self(x) - y).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", (self(x) - y).square().mean())

    def configure_optimizers(self):
        kernels = [p for p in self.parameters() if p.dim() > 1]
        vectors = [p for p in self.parameters() if p.dim() == 1]
        groups = [{"params": kernels}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = self.make(groups, lr=1e-2)
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}


class Recorder(Callback):
    """Keeps every step's learning rate and weights' sum, and every epoch's losses."""

    def __init__(self):
        self.steps, self.epochs, self.rates = {}, {}, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps[trainer.global_step] = float(outputs["loss"])
        self.rates[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer, pl_module):
        found = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self.epochs[trainer.current_epoch] = found


class Resumable(DataLoader):
    """Goes on in the middle of an epoch, as Lightning asks of a loader for checkpoints there."""

    given, skip = 0, 0

    def __iter__(self):
        skip, self.skip = self.skip, 0
        for self.given, batch in enumerate(super().__iter__(), start=1):
            if self.given > skip:
                yield batch

    def state_dict(self):
        return {"given": self.given % len(self)}

    def load_state_dict(self, state):
        self.skip = state["given"]


def loader(batch_size=12):
    return Resumable(TensorDataset(X, Y), batch_size=batch_size)


def trainer(folder, *callbacks, epochs=4, saved=None, **options):
    """A quiet trainer on the CPU; saved: arguments of a ModelCheckpoint that keeps everything."""
    if saved is not None:
        callbacks += (ModelCheckpoint(folder, "{epoch}-{step}", save_top_k=-1, **saved),)
    options = {"accelerator": "cpu", "devices": 1, "logger": False} | options
    return lightning.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder,
        enable_checkpointing=saved is not None, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
