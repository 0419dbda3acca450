"""Run folders as train.py leaves them, in a moment: random features of a small network, and a head fitted to the digits."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import ResNet

import evaluate
from common.analysis import figures
from common.config import PRESETS, EvaluateConfig
from common.data.batches import normalize, resized
from common.data.dataset import Dataset
from common.data.load import load_dataset
from common.data.split import split_indices
from common.model.build import build_model
from common.model.weights import save_weights
from common.runs.folder import RunFolder, create_run
from common.training.facts import split_record, weights_metadata


def make_run(runs_dir: Path, run_id: str, **changes) -> RunFolder:
    """`changes`: fields of the config that differ from `--preset digits`. Call it with tiny models in place."""
    config = PRESETS["digits"].replace(run_id=run_id, **changes)
    data = load_dataset(config.data.dataset, config.place.data_dir, "train", config.images.image_size)
    folder = RunFolder(runs_dir / run_id)
    validation = split_indices(data.labels, config.data.validation_fraction, config.compute.seed)[1]
    create_run(folder, config, split_record(config, data, validation))
    model = build_model(config.model.model, len(data.classes), "none", config.compute.seed)
    fit_head(model, data, config.images.image_size)
    about = {**weights_metadata(config, data, folder), "epoch": 1, "step": 1, "metrics": {}}
    save_weights(folder.best, model.state_dict(), about)
    return folder


def make_new_and_evaluated(runs_dir: Path, run_id: str) -> None:
    """Runs `new`, and `run_id`, which evaluate.py has evaluated without its figures, which take most of the time."""
    for seed, name in enumerate(("new", run_id)):
        make_run(runs_dir, name, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "of_report", lambda *_: {})
        evaluate.main(EvaluateConfig(run_id, runs_dir=str(runs_dir)))


@torch.no_grad()
def fit_head(model: ResNet, data: Dataset, image_size: int) -> None:
    """Ridge regression of the classes on the network's features: right more often than not, and wrong now and then."""
    head, model.fc = model.fc, nn.Identity()
    features = model.eval()(normalize(resized(data.images, image_size)))
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1).double()
    targets = nn.functional.one_hot(data.labels, len(data.classes)).double()
    ridge = 1e-3 * features.square().mean() * len(features) * torch.eye(features.shape[1])
    solution = 10 * torch.linalg.solve(features.T @ features + ridge, features.T @ targets).float()
    head.weight.copy_(solution[:-1].T)
    head.bias.copy_(solution[-1])
    model.fc = head
