"""Feature extraction: with a frozen backbone, its features are computed once per image and view, and the head trains on them.

With as many views as epochs, the head sees in each epoch just the features that the whole network would have computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.batches import Batches, batch_images, cut_epoch
from common.engine import predict
from common.runtime import watched

if TYPE_CHECKING:
    from common.config import TrainConfig
    from common.task import Task


def backbone_of(model: nn.Module) -> nn.Module:
    """`model` without its head: images (b, 3, s, s) → features (b, in_features). Shares the weights."""
    return nn.Sequential(*[child for name, child in model.named_children() if name != "fc"], nn.Flatten(1))


def with_cached_features(
    config: TrainConfig, task: Task, stopped: Callable[[], bool]
) -> tuple[FeatureBatches, FeatureBatches]:
    """The task's batches for training and for validation, as features. Raises: `Interrupted`."""
    made = []
    for batches, views, name in ((task.batches, config.feature_views, "training"), (task.validation, 1, "validation")):
        features = extract(task.trainer.model, batches, views, task.amp, stopped, f"{name} features")
        labels = task.data.labels[batches.indices]
        made.append(FeatureBatches(features, labels, config.batch_size, batches.order_seed))
    return made[0], made[1]


def extract(
    model: nn.Module,
    batches: Batches,
    views: int,
    amp: torch.dtype | None,
    stopped: Callable[[], bool],
    description: str,
) -> Tensor:
    """Features float32 (images, views, in_features) on the device, in the order of the batches' indices."""
    backbone, features = backbone_of(model), []
    if len(batches) == 0:
        return torch.empty(0, views, model.fc.in_features, device=batches.device)
    for view in range(views):
        name = description if views == 1 else f"{description} {view + 1}/{views}"
        seen = watched(batches.epoch(view), stopped)
        computed, _ = predict(backbone, seen, batches.device, amp, total=len(batches), description=name)
        # A training epoch comes in its permutation: put every row back to its place.
        order = torch.cat(cut_epoch(len(batches.indices), batches.batch_size, batches.order_seed, view))
        features.append(torch.empty_like(computed).index_copy_(0, order, computed))
    return torch.stack(features, dim=1).to(batches.device)


class FeatureBatches:
    """Features and labels in the batches, and the order, that `Batches` would have.

    features: float32 (N, views, in_features); labels: int64 (N,). Epoch e takes view e modulo views.
    """

    def __init__(self, features: Tensor, labels: Tensor, batch_size: int, seed: int | None) -> None:
        self.features, self.labels = features, labels.to(features.device)
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        return len(cut_epoch(len(self.labels), self.batch_size))

    def size(self, step: int) -> int:
        return batch_images(len(self.labels), self.batch_size, step)

    def epoch(self, epoch: int, start_step: int = 0, image_size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        view = epoch % self.features.shape[1]
        for positions in cut_epoch(len(self.labels), self.batch_size, self.seed, epoch)[start_step:]:
            positions = positions.to(self.features.device, non_blocking=True)
            yield self.features[positions, view], self.labels[positions]
