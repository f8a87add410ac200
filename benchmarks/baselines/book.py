"""The book's program (chapter 9: data set, transforms, loop, meters, validation) in today's torch, written again.

    python -m benchmarks.baselines.book --root=../shared/data/dogcat/train

One epoch of SqueezeNet, or of --model, in fp32 and its validation; visdom, which could only add to the time, is left
out. The last line printed is the seconds of the training phase, from asking for the first batch to the end of the last
step.
"""

import argparse
import os
import tempfile
import time

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import models
from torchvision import transforms as T

NORMALIZE = T.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
TRAIN = T.Compose([T.Resize(256), T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(), NORMALIZE])
PLAIN = T.Compose([T.Resize(224), T.CenterCrop(224), T.ToTensor(), NORMALIZE])


class DogCat(Dataset):
    """Files <class>.<num>.jpg in the order of their numbers, the first 70 % for train, the rest for val."""

    def __init__(self, root, mode):
        paths = sorted((os.path.join(root, name) for name in os.listdir(root)), key=lambda p: int(p.split(".")[-2]))
        cut = int(0.7 * len(paths))
        self.paths, self.transforms = (paths[:cut], TRAIN) if mode == "train" else (paths[cut:], PLAIN)

    def __getitem__(self, index):
        path = self.paths[index]
        return self.transforms(Image.open(path)), int("dog" in os.path.basename(path))

    def __len__(self):
        return len(self.paths)


def val(model, loader, device):
    """(confusion meter, accuracy in %) of the model on the loader."""
    from torchnet import meter

    model.eval()
    confusion = meter.ConfusionMeter(2)
    with torch.no_grad():
        for data, label in loader:
            confusion.add(model(data.to(device)).cpu(), label)
    model.train()
    counts = confusion.value()
    return confusion, 100.0 * counts.trace() / counts.sum()


def train(root, folder, model, batch_size=32, num_workers=2, lr=0.001):
    """Train torchvision's `model` for one epoch, save into `folder`, validate. Returns the seconds of training."""
    from torchnet import meter

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.get_model(model, num_classes=2).to(device)
    train_data, val_data = DogCat(root, "train"), DogCat(root, "val")
    train_loader = DataLoader(train_data, batch_size, shuffle=True, num_workers=num_workers)
    val_loader = DataLoader(val_data, batch_size, shuffle=False, num_workers=num_workers)
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, weight_decay=1e-4)
    loss_meter, confusion = meter.AverageValueMeter(), meter.ConfusionMeter(2)

    began = time.perf_counter()
    for data, label in train_loader:
        input, target = data.to(device), label.to(device)
        optimizer.zero_grad()
        score = model(input)
        loss = criterion(score, target)
        loss.backward()
        optimizer.step()
        loss_meter.add(loss.item())
        confusion.add(score.detach(), target.detach())
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began

    torch.save(model.state_dict(), os.path.join(folder, "model.pth"))
    _, accuracy = val(model, val_loader, device)
    counts = f"{len(train_data)} pictures, validated on {len(val_data)}"
    print(f"trained on {counts}: loss {loss_meter.value()[0]:.4f}, val_accuracy {accuracy:.1f}")
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--model", default="squeezenet1_1")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(train(given.root, folder, given.model))
