#!/usr/bin/env python3
"""Writes a benchmark checkpoint as GGUF files, with llama.cpp's own converter and quantiser.

    gguf_models.py --llama DIR/llama.cpp --cache HUB --model qwen2-0.5b --out FOLDER

Writes FOLDER/NAME-bf16.gguf and, made of it, NAME-q8_0, NAME-q4_0 (its head in Q8_0) and NAME-q4_k_m. Files that are there
are kept. The checkpoint's tokenizer is one that the converter does not know: it is told the name of the pre-tokenizer.
"""

import argparse
import pathlib
import runpy
import subprocess
import sys

FORMATS = {"q8_0": ["Q8_0"], "q4_0": ["--output-tensor-type", "q8_0", "--token-embedding-type", "q8_0", "Q4_0"], "q4_k_m": ["Q4_K_M"]}
PRE_TOKENIZERS = {"llama-1b": "llama-bpe"}


def convert(llama: pathlib.Path, snapshot: pathlib.Path, out: pathlib.Path, pre_tokenizer: str) -> None:
    """The checkpoint as it is, in bf16."""
    sys.path[:0] = [str(llama), str(llama / "gguf-py")]
    from conversion.base import TextModel

    TextModel.get_vocab_base_pre = lambda *_: pre_tokenizer
    sys.argv = ["convert_hf_to_gguf.py", str(snapshot), "--outtype", "bf16", "--outfile", str(out)]
    runpy.run_path(str(llama / "convert_hf_to_gguf.py"), run_name="__main__")


def main() -> None:
    """Converts, then quantises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama", type=pathlib.Path, required=True, help="llama.cpp's sources, built in build/")
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="the hub cache that make_models.py wrote")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    [snapshot] = (args.cache / f"models--bench--{args.model}" / "snapshots").iterdir()
    whole = args.out / f"{args.model}-bf16.gguf"
    if not whole.exists():
        convert(args.llama, snapshot, whole, PRE_TOKENIZERS.get(args.model, "qwen2"))
    for name, words in FORMATS.items():
        out = args.out / f"{args.model}-{name}.gguf"
        if not out.exists():
            *options, kind = words
            quantise = args.llama / "build/bin/llama-quantize"
            subprocess.run([quantise, *options, whole, out, kind], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
