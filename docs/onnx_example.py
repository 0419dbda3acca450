"""Classifies photos with a file that export.py wrote, with nothing but numpy, Pillow and ONNX Runtime.

    python docs/onnx_example.py flowers.onnx photo.jpg …

Prints each photo's name, class and confidence. Pillow's formats are read as the project reads them, but for pictures of more than 8 bits.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
said = session.get_modelmeta().custom_metadata_map
if said.get("format") != "resnext-finetuning export 1":
    sys.exit(f"{sys.argv[1]} was not written by export.py, or another program has changed it")
about = {key: json.loads(value) for key, value in said.items() if key not in ("format", "sha256")}
kept, seen = about["decode_size"], about["image_size"]

for path in sys.argv[2:]:
    photo = Image.open(path)
    photo.draft("RGB", (2 * kept, 2 * kept))  # a large JPEG is decoded at a half, a quarter or an eighth
    photo = ImageOps.exif_transpose(photo)
    if photo.has_transparency_data:
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo.convert("RGBA"))
    square, margin = (ImageOps.pad, (124, 116, 104)) if about["fit"] == "pad" else (ImageOps.fit, 0)
    photo = square(photo.convert("RGB"), (kept, kept), Image.Resampling.BILINEAR, margin)
    images = np.asarray(photo.resize((seen, seen), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
    if not about["preprocessing"]:
        mean, std = (np.float32(about[key]).reshape(3, 1, 1) for key in ("mean", "std"))
        images = (images / np.float32(255) - mean) / std
    answer = session.run(None, {"images": images})[0][0]
    if not about["preprocessing"]:
        powers = np.exp((answer - answer.max()) / (about["temperature"] or 1))
        answer = powers / powers.sum()
    print(path, about["classes"][answer.argmax()], f"{answer.max():.4f}", sep="\t")
