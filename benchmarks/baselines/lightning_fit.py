"""The same training as Lightning's documentation has it, and tuned: channels_last, and bf16-mixed where the device
computes that natively (elsewhere it takes many times as long).

    python -m benchmarks.baselines.lightning_fit --root=../shared/data/dogcat/train [--tuned] [--model=resnet34]

Pictures, transforms and split are the book's; logger, checkpoint, progress bar and sanity check are Lightning's
defaults. The last line printed is that of book.py. The training phase begins with the hook on_train_epoch_start, when
Lightning has started its workers already, which is a little in its favour.
"""

import argparse
import tempfile
import time

import lightning as L
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision.models import get_model

from benchmarks.baselines.book import DogCat


class LitModel(L.LightningModule):
    """torchvision's model of this name, for two classes."""

    def __init__(self, name, channels_last=False):
        super().__init__()
        self.model = get_model(name, num_classes=2)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.model(x.contiguous(memory_format=self.memory_format)), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        score = self.model(x.contiguous(memory_format=self.memory_format))
        self.log("val_loss", F.cross_entropy(score, y))
        self.log("val_acc", (score.argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.001, weight_decay=1e-4)


class Clock(L.Callback):
    """Seconds from the begin of the training epoch to the end of its last step."""

    def on_train_epoch_start(self, trainer, module):
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if torch.cuda.is_available() and batch_idx + 1 == trainer.num_training_batches:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.began


def has_bf16():
    """Whether the device that Lightning takes computes in bfloat16 natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))


def fit(root, folder, model, num_workers, tuned):
    """Train for one epoch with validation. Returns the seconds of the training phase."""
    train_data, val_data = DogCat(root, "train"), DogCat(root, "val")
    clock, precision = Clock(), "bf16-mixed" if tuned and has_bf16() else "32-true"
    trainer = L.Trainer(max_epochs=1, precision=precision, default_root_dir=folder, callbacks=[clock])
    trainer.fit(
        LitModel(model, channels_last=tuned),
        DataLoader(train_data, batch_size=32, shuffle=True, num_workers=num_workers),
        DataLoader(val_data, batch_size=32, num_workers=num_workers),
    )
    return clock.seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--model", default="squeezenet1_1")
    parser.add_argument("--tuned", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(fit(given.root, folder, given.model, given.num_workers, given.tuned))
