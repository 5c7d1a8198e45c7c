#!/usr/bin/env python3
"""Make a large model and a draft model of one that agree more or less, out of one checkpoint of random weights.

    draft_pair.py FOLDER OUT [--layers 4] [--scale 0.02]

OUT/draft has the first layers of the checkpoint, its embedding and its head. OUT/large has all layers, of which those that the draft lacks
add only --scale of what they added: so it costs what the checkpoint costs, and says what the draft says, the more often the smaller the
scale is. Real pairs agree because both were trained; this is a way to measure what agreement is worth without any. Needs numpy only.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shutil

import numpy as np

LAYER = re.compile(r"model\.layers\.(\d+)\.")
OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def scaled(tensor: np.ndarray, scale: float) -> np.ndarray:
    """A bf16 tensor, as its bits, times a number."""
    widened = (tensor.astype(np.uint32) << 16).view(np.float32) * np.float32(scale)
    bits = widened.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read(path: pathlib.Path) -> dict[str, tuple[list[int], np.ndarray]]:
    """The tensors of a safetensors file in bf16: shape and bits."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
    header.pop("__metadata__", None)
    bits = np.memmap(path, np.uint8, "r")
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}"
        first, end = (start + offset for offset in entry["data_offsets"])
        tensors[name] = (entry["shape"], bits[first:end].view(np.uint16))
    return tensors


def write(path: pathlib.Path, tensors: dict[str, tuple[list[int], np.ndarray]]) -> None:
    """A safetensors file of these."""
    header, offset = {}, 0
    for name, (shape, bits) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, bits in tensors.values():
            file.write(bits.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=4, help="of the draft")
    parser.add_argument("--scale", type=float, default=0.02, help="of what the other layers add")
    args = parser.parse_args()
    tensors = read(args.folder / "model.safetensors")
    config = json.loads((args.folder / "config.json").read_text())

    def is_drafts(name: str) -> bool:
        layer = LAYER.match(name)
        return layer is None or int(layer[1]) < args.layers

    def large(name: str) -> tuple[list[int], np.ndarray]:
        shape, bits = tensors[name]
        return shape, bits if is_drafts(name) or not name.endswith(OUTPUTS) else scaled(bits, args.scale)

    made = {
        "draft": ({n: t for n, t in tensors.items() if is_drafts(n)}, config | {"num_hidden_layers": args.layers}),
        "large": ({name: large(name) for name in tensors}, config),
    }
    for name, (kept, config) in made.items():
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in args.folder.iterdir():
            if file.suffix != ".safetensors":
                shutil.copyfile(file, folder / file.name)
        for per_layer in ("layer_types",):
            if per_layer in config:
                config[per_layer] = config[per_layer][: config["num_hidden_layers"]]
        if "max_window_layers" in config:
            config["max_window_layers"] = min(config["max_window_layers"], config["num_hidden_layers"])
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        write(folder / "model.safetensors", kept)
        print(folder)


if __name__ == "__main__":
    main()
