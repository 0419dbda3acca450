"""A folder as the Hugging Face Hub has it: config.json, model.safetensors, README.md.

What timm reads of it is in its `models/_hub.py`: `architecture`, `num_classes`, `label_names` and `pretrained_cfg`; its ResNets' tensors
have torchvision's names. transformers reads `id2label` and `label2id`.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn
from torchvision.models import ResNet

from common.base.errors import UserError, first_line
from common.base.files import disk_errors, read_json, write_atomic, write_json
from common.base.records import parse_record
from common.export.about import About
from common.model.build import ARCHITECTURES
from common.model.weights import as_os_error, load_into

CONFIG, WEIGHTS, CARD = FILES = ("config.json", "model.safetensors", "README.md")
OURS = "resnext_finetuning"


def write_hub(folder: Path, network: ResNet, about: About, card: str) -> None:
    """Writes the three files into `folder`, which is there. network: as torchvision has it. Errors: `RunError` when the disk is full."""
    header = {**about.as_text(), "format": "pt"}  # which transformers asks for
    with disk_errors(folder):
        with as_os_error():
            safetensors.torch.save_file(
                {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / WEIGHTS, header
            )
        write_json(folder / CONFIG, config_of(about, network.fc.in_features))
        write_atomic(folder / CARD, card)


def config_of(about: About, features: int) -> dict[str, Any]:
    """config.json. features: of the network before its head."""
    classes, side = about.classes, about.image_size
    return {
        "architecture": about.model,
        "num_classes": len(classes),
        "num_features": features,
        "global_pool": "avg",
        "label_names": classes,
        "id2label": {str(label): name for label, name in enumerate(classes)},
        "label2id": {name: label for label, name in enumerate(classes)},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, side, side],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "border" if about.fit == "pad" else "center",
            "mean": list(about.mean),
            "std": list(about.std),
            "num_classes": len(classes),
            "pool_size": [-(-side // 32)] * 2,
            "first_conv": "conv1",
            "classifier": "fc",
        },
        OURS: asdict(about),
    }


def read_hub(folder: Path) -> About:
    """What the folder says of itself. Errors: `UserError` naming the file when it is none of ours."""
    config = read_json(folder / CONFIG)
    if OURS not in config:
        raise UserError(f"{folder / CONFIG} was not written by export.py: it has no {OURS!r}")
    return parse_record(json.dumps(config[OURS]).encode(), About, folder / CONFIG)


def open_hub(folder: Path) -> tuple[nn.Module, About]:
    """The folder's network, in eval mode, as torchvision builds it and with nothing but its file's tensors. Errors: `UserError` naming
    the file that is missing or damaged, or whose network is unknown."""
    about = read_hub(folder)
    if about.model not in ARCHITECTURES:
        raise UserError(f"{folder / CONFIG} is of the unknown model {about.model[:60]!r}")
    network = ARCHITECTURES[about.model](num_classes=len(about.classes))
    try:
        state = safetensors.torch.load_file(folder / WEIGHTS)
    except Exception as error:  # torch knows fewer types than the format
        raise UserError(f"{folder / WEIGHTS} can't be read as safetensors: {first_line(error)}") from error
    load_into(network, state, folder / WEIGHTS)
    return network.eval(), about
