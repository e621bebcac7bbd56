"""What two Lightning processes do together: importable, since each of them starts anew."""

import os
import socket
import warnings

import torch
from tiny_lightning import Recorder, Tiny, loader, trainer

import gnomon as gn
from gnomon.callbacks import refuse_difference
from gnomon.callbacks.lightning import GrowthCallback

# val_loss is each rank's own here: rank 0's decides for all.
SCHEDULE = gn.At(gn.Widen("net.0", by=1.5), step=3) + gn.OnPlateau(
    "val_loss", gn.Deepen("net.4"), patience=2, margin=10.0
)


class Alike(Recorder):
    """The ranks are bit-identical after every batch."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        refuse_difference(pl_module)


def run(folder, **options):
    """Train in two processes, as torchrun would start them; the weights are in folder/last.ckpt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_fit, (port, folder, options), nprocs=2)
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def _fit(rank, port, folder, options):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    of_torchrun = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    of_torchrun |= {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    of_torchrun |= {"TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in of_torchrun.items()})
    saved, ckpt_path = options.get("saved"), options.get("ckpt_path")
    growth = GrowthCallback(SCHEDULE, seed=3)
    one = trainer(folder, growth, Alike(), saved=saved, strategy="ddp", devices=2)
    one.fit(Tiny(), loader(6), loader(6), ckpt_path=ckpt_path)
    one.save_checkpoint(folder / "last.ckpt")
