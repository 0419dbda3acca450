"""fastai's `fine_tune` with its defaults: a frozen epoch, then the others. Run by benchmarks.peers in fastai's environment.

    python fastai_script.py --data DATA --weights resnet50.safetensors --image_size 96 --epochs 4 --batch_size 64 --seed 0

DATA has train/<class>/, validation/<class>/ and test/<class>/. The last line that it prints is the result as JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from fastai.callback import schedule  # noqa: F401 - adds `fine_tune` to Learner
from fastai.data.transforms import get_image_files
from fastai.metrics import accuracy
from fastai.torch_core import set_seed
from fastai.vision.augment import Resize, aug_transforms
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import model_meta, vision_learner
from safetensors.torch import load_file
from torchvision.models import ResNet, resnet50


def main(data: Path, weights: Path, image_size: int, epochs: int, batch_size: int, seed: int) -> dict[str, Any]:
    def pretrained_resnet50(**given: object) -> ResNet:
        """What fastai calls for pretrained weights, with the file in the download's place."""
        model = resnet50()
        model.load_state_dict(load_file(weights))
        return model

    model_meta[pretrained_resnet50] = model_meta[resnet50]  # where its head is cut off, its groups, its normalization
    set_seed(seed)
    loaders = ImageDataLoaders.from_folder(
        data, valid="validation", item_tfms=Resize(image_size), batch_tfms=aug_transforms(), bs=batch_size
    )
    learner = vision_learner(loaders, pretrained_resnet50, metrics=accuracy)
    start = time.perf_counter()
    learner.fine_tune(epochs - 1)  # which a frozen one goes before
    seconds = time.perf_counter() - start
    test = loaders.test_dl(get_image_files(data / "test"), with_labels=True)
    return {
        "validation": float(learner.validate()[1]),
        "test": float(learner.validate(dl=test)[1]),
        "seconds": seconds,
        "steps": epochs * len(loaders.train),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"data": Path, "weights": Path}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    for name in ("image_size", "epochs", "batch_size", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    print("\n" + json.dumps(main(**vars(parser.parse_args()))), flush=True)
