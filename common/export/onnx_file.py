"""ONNX: a network as a file that ONNX Runtime runs, and that says what goes in and what comes out.

torch's exporter is given a batch of two: of one it would make a constant of the batch (pytorch#157621).
"""

import hashlib
import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.base.cores import usable_cores
from common.base.errors import RunError, UserError, first_line
from common.base.files import atomic_path, disk_errors, read_file
from common.base.packages import require
from common.data.batches import OFFSET, SCALE
from common.export.about import About, from_text

if TYPE_CHECKING:
    import onnx
    import onnxruntime

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18  # what torch's exporter writes without conversion, and ONNX Runtime has since 1.14
LONGEST = 2**31 - 1  # bytes of a protobuf message
BATCH = "n"


class Preprocessed(nn.Module):
    """From pixels to probabilities: what is around a network, as a network."""

    scale: Tensor
    offset: Tensor

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        self.register_buffer("scale", torch.tensor(SCALE).view(3, 1, 1))
        self.register_buffer("offset", torch.tensor(OFFSET).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """images: uint8 (n, 3, s, s) → probabilities float32 (n, classes)"""
        return (self.network(images.float() * self.scale + self.offset) / self.temperature).softmax(1)


@dataclass(frozen=True)
class OnnxNetwork:
    """An exported file in ONNX Runtime, on the CPU."""

    session: "onnxruntime.InferenceSession"
    about: About

    def __call__(self, images: Tensor) -> Tensor:
        """What the file gives for these images, whose number is any: `About.preprocessing` says what both are."""
        (answer,) = self.session.run(None, {"images": images.contiguous().numpy()})
        return torch.from_numpy(answer)


def write_onnx(path: Path, network: nn.Module, about: About) -> None:
    """Replaces the file. network: in eval mode, on the CPU, of plain convolutions.

    Errors: `UserError` without the packages, `RunError` when it is not written, or torch can't express the network.
    """
    require("--format onnx", *PACKAGES, file="requirements-export.txt")
    model = _exported(network, about)
    for name, text in {**about.as_text(), "sha256": _digest(model.graph)}.items():
        model.metadata_props.add(key=name, value=text)
    with disk_errors(path), atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _exported(network: nn.Module, about: About) -> "onnx.ModelProto":
    side, kind = about.image_size, torch.float32
    if about.preprocessing:
        assert about.temperature is not None
        network, kind = Preprocessed(network, about.temperature).eval(), torch.uint8
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of packages that it does not need
            program = torch.onnx.export(
                network,
                (torch.zeros(2, 3, side, side, dtype=kind),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["probabilities" if about.preprocessing else "logits"],
                dynamic_shapes=({0: torch.export.Dim(BATCH)},),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise RunError(f"torch can't express {about.model} in ONNX: {first_line(error)}") from error
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # where in whose folders the code lay that it was made from
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def read_onnx(path: Path) -> About:
    """What the file says of itself. Errors: `UserError` naming it when it is no ONNX, none of ours, or another program has changed it."""
    return _read(path)[0]


def open_onnx(path: Path) -> OnnxNetwork:
    """The file in ONNX Runtime. Errors: as `read_onnx`."""
    about, data = _read(path)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = usable_cores(), 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # it has kinds of its own
        raise UserError(f"{path} can't be run by ONNX Runtime: {first_line(error)}") from error
    return OnnxNetwork(session, about)


def _read(path: Path) -> tuple[About, bytes]:
    require(f"{path}", *PACKAGES, file="requirements-export.txt")
    import onnx

    try:
        data = read_file(path, LONGEST)
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own kinds
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{path} can't be read as ONNX: {reason}") from error
    said = {entry.key: entry.value for entry in model.metadata_props}
    digest = said.pop("sha256", None)
    about = from_text(said, path)
    if digest != _digest(model.graph):
        raise UserError(
            f"{path} was changed by another program: its network is not the one that export.py wrote; export it anew"
        )
    return about, data


def _digest(graph: "onnx.GraphProto") -> str:
    """SHA-256 hex over the network: what is computed in which order, with which numbers."""
    digest = hashlib.sha256()
    names = [[value.name for value in (*graph.input, *graph.output)]]
    steps: list[Any] = [[node.op_type, list(node.input), list(node.output)] for node in graph.node]
    digest.update(json.dumps(names + steps).encode())
    for node in graph.node:
        for attribute in node.attribute:
            digest.update(attribute.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()
