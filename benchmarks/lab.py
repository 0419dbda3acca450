"""The lab's code as a student writes it: torchvision's transforms on one PIL image after the other, a DataLoader, the default
layout, and a loss that is read in every step. What this project is compared with.
"""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import ResNet

from common.data.batches import MEAN, STD
from common.model.build import ARCHITECTURES

CLASSES = 100


class LabDataset(Dataset):
    """As torchvision's CIFAR-100: an array of images, of which each is made a PIL image when it is asked for.

    images: uint8 (N, 32, 32, 3); labels: N integers.
    """

    def __init__(self, images: np.ndarray, labels: list[int], image_size: int, augment: bool = False) -> None:
        self.data, self.targets = images, labels
        random = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()] if augment else []
        resize = [transforms.Resize((image_size, image_size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose([*random, *resize])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.data[index])), self.targets[index]


def small_images(count: int) -> tuple[Tensor, Tensor]:
    """Images of CIFAR's size: squares of random colours → uint8 (count, 3, 32, 32), int64 (count,) of 100 classes. What is in
    them does not change how long anything takes."""
    squares = torch.randint(256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return squares.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3), torch.arange(count) % CLASSES


def lab_loader(
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    image_size: int,
    shuffle: bool = True,
    workers: int = 0,
    augment: bool = False,
) -> DataLoader:
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()
    dataset = LabDataset(arrays, labels.tolist(), image_size, augment)
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, num_workers=workers)


def lab_model(frozen_backbone: bool = False) -> ResNet:
    model = ARCHITECTURES["resnext50_32x4d"]()
    for parameter in model.parameters():
        parameter.requires_grad = not frozen_backbone
    model.fc = nn.Linear(model.fc.in_features, CLASSES)
    return model


def lab_training(model: nn.Module, loader: DataLoader, device: torch.device) -> Iterator[float]:
    """The loss of one step after the other, epoch after epoch, without end."""
    model = model.to(device).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.001, momentum=0.9)
    running_loss = 0.0
    while True:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            yield loss.item()


@torch.no_grad()
def lab_evaluation(model: nn.Module, loader: DataLoader, device: torch.device) -> Iterator[list[int]]:
    """The answers to one batch after the other, over and over."""
    model = model.to(device).eval()
    while True:
        for images, _ in loader:
            yield model(images.to(device)).argmax(dim=1).cpu().tolist()
