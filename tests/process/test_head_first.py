"""`--head_epochs`: the head first, then everything, as one run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import train
from common.base.errors import UserError
from common.config import PRESETS, TrainConfig
from common.model.build import build_model
from common.runs.folder import RunFolder, read_metrics

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """Digits from weights that are a file's; 12 steps an epoch, every step a row."""
    weights = tmp_path / "weights.pth"
    torch.save(build_model("resnext50_32x4d", 7, "none", seed=5).state_dict(), weights)
    small = {"image_size": 16, "batch_size": 64, "validation_fraction": 0.5, "log_every": 1, "feature_views": 2}
    return PRESETS["digits"].replace(weights=str(weights), device="cpu", runs_dir=str(tmp_path), **small)


def run(config: TrainConfig, run_id: str, **flags: object) -> RunFolder:
    assert train.main(config.replace(run_id=run_id, **flags)) == 0
    return RunFolder(Path(config.run.runs_dir, run_id))


def learned(folder: RunFolder) -> list[tuple[float, ...]]:
    """Step, lr, loss and accuracies of each row."""
    names = ("lr", "train/batch_loss", "train/loss", "train/accuracy", "validation/loss", "validation/accuracy")
    return [(row["step"], *(row[name] for name in names if name in row)) for row in read_metrics(folder)]


def weights_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    return torch.load(folder.last, weights_only=True)["model"]


def test_the_heads_epochs_are_those_of_a_run_that_trains_the_head_alone(config):
    head = run(config, "head", finetune="head", epochs=2)
    both = run(config, "both", head_epochs=2, epochs=1)
    assert learned(both)[: len(learned(head))] == learned(head)
    assert read_metrics(both)[-1]["epoch"] == 3 and len(read_metrics(both)) == 36
    # Then everything is trained, from a schedule's beginning.
    stopped = weights_of(run(config, "stopped", head_epochs=2, epochs=1, max_steps=24))
    before, after = weights_of(head), weights_of(both)
    for name, tensor in before.items():
        assert torch.equal(tensor, stopped[name]), name
        assert name.endswith("num_batches_tracked") or not torch.equal(tensor, after[name]), name


def test_each_phase_has_its_own_schedule(config):
    folder = run(config, "run", head_epochs=2, epochs=1, warmup_epochs=0.25, lr=0.1, backbone_lr_scale=0.5)
    lrs = [row["lr"] for row in read_metrics(folder)]
    assert lrs[:3] == lrs[24:27] == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    assert lrs[23] < 0.001 and lrs[35] < 0.005
    assert lrs[3:23] == sorted(lrs[3:23], reverse=True) and lrs[27:35] == sorted(lrs[27:35], reverse=True)


def test_images_grow_and_are_mixed_only_when_everything_is_trained(config, monkeypatch):
    from common.training import step

    seen = []
    train_step = step.train_step

    def noting(model, images, labels, *rest):
        seen.append((tuple(images.shape[2:]), labels.ndim))
        return train_step(model, images, labels, *rest)

    monkeypatch.setattr(step, "train_step", noting)
    run(config, "run", head_epochs=1, epochs=2, image_size=32, progressive_from=17, mixup_alpha=0.5)
    assert seen == [((), 1)] * 12 + [((17, 17), 2)] * 12 + [((32, 32), 2)] * 12


def test_the_best_epoch_may_be_one_of_the_heads(config):
    folder = run(config, "run", head_epochs=2, epochs=1, lr=1e-9, backbone_lr_scale=1.0, weight_decay=0)
    summary = folder.read_summary()
    assert summary.status == "finished"
    state = load_file(folder.best)
    pretrained = torch.load(config.model.weights, weights_only=True)
    assert all(torch.equal(state[name], pretrained[name]) for name in state if name.startswith("layer4.0.conv1"))


@pytest.mark.parametrize(
    "flags, reason",
    [
        ({"finetune": "head"}, "0 with finetune head"),
        ({"weights": "none"}, "0 with weights none"),
        ({"feature_views": 0}, "0 with feature_views 0"),
    ],
)
def test_a_head_phase_with_nothing_to_freeze_is_refused(config, flags, reason, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"--head_epochs is 3, but must be {reason}"):
        train.main(config.replace(head_epochs=3, **flags))
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_max_steps_ended_with_the_head_goes_on_with_everything(config):
    whole = run(config, "whole", head_epochs=1, epochs=1)
    cut = run(config, "cut", head_epochs=1, epochs=1, max_steps=12)
    assert train.main(config.replace(head_epochs=1, epochs=1, run_id="cut", resume="cut")) == 0
    assert learned(cut)[12:] == learned(whole)[12:]
    assert all(torch.equal(a, b) for a, b in zip(weights_of(cut).values(), weights_of(whole).values(), strict=True))


def test_the_speed_of_epochs_on_kept_features_is_not_called_one_of_images(config, capsys):
    rows = read_metrics(run(config, "run", head_epochs=1, epochs=1, log_every=4))
    keys = [[key for key in row if key.startswith("throughput/")] for row in rows]
    assert keys == [["throughput/features_per_second"]] * 3 + [["throughput/images_per_second"]] * 3
    first, second = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert "features/s" in first and "images/s" not in first and "images/s" in second and "features/s" not in second
