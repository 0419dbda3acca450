"""Feature extraction: with a frozen backbone, its features are computed once per image and view, and the head trains on them.

With as many views as epochs, the head sees in each epoch just the features that the whole network would have computed.
"""

import contextlib
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import ResNet

from common.base.errors import UserError
from common.base.files import atomic_path, cache_folder
from common.base.processes import Processes
from common.base.signals import watched
from common.data.batches import Batches, batch_images, cut_epoch, steps_per_epoch
from common.model.predict import predict


class FeatureBatches:
    """Features and labels in the batches, and the order, that `Batches` would have.

    features: float32 (N, views, in_features); labels: int64 (N,). Epoch e takes view e modulo views. classes: as `cut_epoch`'s.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int | None,
        processes: Processes,
        classes: Tensor | None = None,
    ) -> None:
        self.features, self.labels, self.classes = features, labels, classes
        self.batch_size, self.seed, self.processes = batch_size, seed, processes

    def __len__(self) -> int:
        return steps_per_epoch(len(self.labels), self.batch_size)

    def size(self, step: int) -> int:
        return batch_images(len(self.labels), self.batch_size, step)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        view = epoch % self.features.shape[1]
        cut = cut_epoch(len(self.labels), self.batch_size, self.seed, epoch, self.classes)
        for positions in cut[start_step:]:
            positions = positions[self.processes.rank :: self.processes.world].to(
                self.features.device, non_blocking=True
            )
            yield self.features[positions, view], self.labels[positions]


def backbone_of(model: nn.Module) -> nn.Module:
    """`model` without its head: images (b, 3, s, s) → features (b, in_features). Shares the weights."""
    return nn.Sequential(*[child for name, child in model.named_children() if name != "fc"], nn.Flatten(1))


def cached_features(
    model: ResNet,
    batches: Batches,
    views: int,
    amp: torch.dtype | None,
    processes: Processes,
    stopped: Callable[[], bool],
    name: str,
    data_digest: str | None = None,
) -> FeatureBatches:
    """`batches` as features, of which every process holds all: computed, or with a `data_digest` read from the cache folder, where
    they are then kept too.

    Errors: `UserError` when they can't be kept in a file. Raises: `Interrupted`.
    """
    classes, batches = batches.classes, batches.plain()
    views = 1 if batches.augment == "none" else views  # without augmentation all views are the same
    path, features = None, None
    if data_digest is not None:
        key = cache_key(model, batches, views, amp, data_digest)
        path = cache_folder() / "features" / f"{key}.safetensors"
        features = read_features(path)
        if features is None and path.exists() and processes.main:
            print(f"{path} is damaged, or has no checksum: its features are computed anew", file=sys.stderr)
    if processes.any(features is None):  # in one of them: they are computed by all
        features = extract(model, batches, views, amp, processes, stopped, f"{name} features")
        if path and processes.main:
            write_features(path, features)
    assert features is not None
    labels = batches.labels[batches.indices.to(batches.device)]
    seed = batches.order_seed
    return FeatureBatches(features.to(batches.device), labels, batches.batch_size, seed, processes, classes)


def extract(
    model: ResNet,
    batches: Batches,
    views: int,
    amp: torch.dtype | None,
    processes: Processes,
    stopped: Callable[[], bool],
    description: str,
) -> Tensor:
    """Features float32 (images, views, in_features) on the CPU, in the order of the batches' indices."""
    backbone, features = backbone_of(model), []
    if len(batches) == 0:
        return torch.empty(0, views, model.fc.in_features)
    for view in range(views):
        name = description if views == 1 else f"{description} {view + 1}/{views}"
        seen = watched(batches.epoch(view), stopped)
        computed, _ = predict(backbone, seen, batches.device, amp, len(batches), name if processes.main else None)
        # A training epoch comes in its permutation, dealt out to the processes: put every row back to its place.
        cut = cut_epoch(len(batches.indices), batches.batch_size, batches.order_seed, view)
        order = torch.cat([positions[rank :: processes.world] for rank in range(processes.world) for positions in cut])
        features.append(torch.empty(len(order), computed.shape[1]).index_copy_(0, order, processes.gather(computed)))
    return torch.stack(features, dim=1)


def cache_key(model: nn.Module, batches: Batches, views: int, amp: torch.dtype | None, data_digest: str) -> str:
    """Hex SHA-256 of all that features depend on: the backbone's weights, the images and what is done to them."""
    digest = hashlib.sha256(f"{data_digest} {batches.image_size} {views} {amp}".encode())
    if batches.training and batches.augment != "none":  # each image's draws depend on its place in a batch
        digest.update(json.dumps([batches.augment, batches.flip, batches.seed, batches.batch_size]).encode())
    digest.update(batches.indices.numpy().tobytes())
    for name, tensor in backbone_of(model).state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_features(path: Path) -> Tensor | None:
    """None where there are none, or the file is damaged, in whichever bit."""
    # What bytes alone can do wrong to the reader: a header that is none, or says what the rest is not.
    with contextlib.suppress(OSError, safetensors.SafetensorError, LookupError, ValueError, TypeError):
        with safetensors.safe_open(path, framework="pt") as file:
            features, told = file.get_tensor("features"), (file.metadata() or {}).get("crc32")
        return features if told == checksum(features) else None
    return None


def checksum(features: Tensor) -> str:
    """CRC-32 of the type, the shape and the bytes: it finds damage, and is meant against no one who does it on purpose."""
    crc = zlib.crc32(f"{features.dtype} {tuple(features.shape)}".encode())
    return f"{zlib.crc32(features.reshape(-1).view(torch.uint8).numpy().data, crc):08x}"


def write_features(path: Path, features: Tensor) -> None:
    """Errors: `UserError` when the folder can't be written, or is full."""
    try:
        with atomic_path(path) as temporary:
            safetensors.torch.save_file({"features": features}, temporary, metadata={"crc32": checksum(features)})
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(
            f"--feature_cache file: {features.nbytes / 1e6:.0f} MB can't be written to {path.parent} ({error}); free some space, "
            "set FINETUNE_CACHE to another folder, or use --feature_cache memory"
        ) from None
