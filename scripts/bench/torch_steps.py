#!/usr/bin/env python3
"""How fast transformers steps, with nothing above it: what `benches/step.rs` measures, on torch. Prints one JSON line.

    OMP_NUM_THREADS=2 torch_steps.py FOLDER

A step is one call of the model's forward pass with its cache, and the argmax of the last row; contexts of 128 tokens.
"""

import json
import statistics
import sys
import time

import torch
import transformers

BATCH_SIZES, CONTEXT, PREFILL, RUNS = (1, 8, 32), 128, 512, 5


@torch.inference_mode()
def main() -> None:
    """Decode at each batch size, then a prompt."""
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16).eval()
    generator = torch.Generator().manual_seed(0)

    def tokens(rows: int, columns: int) -> torch.Tensor:
        return torch.randint(20, 1000, (rows, columns), generator=generator)

    decode = []
    for rows in BATCH_SIZES:
        cache = model(tokens(rows, CONTEXT), use_cache=True, logits_to_keep=1).past_key_values
        seconds = []
        for _ in range(RUNS + 1):
            started = time.perf_counter()
            model(tokens(rows, 1), past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1)
            seconds.append(time.perf_counter() - started)
        decode.append({"num_sequences": rows, "tokens_per_s": rows / statistics.median(seconds[1:])})
    seconds = []
    for _ in range(3 + 1):
        started = time.perf_counter()
        model(tokens(1, PREFILL), logits_to_keep=1).logits[:, -1].argmax(-1)
        seconds.append(time.perf_counter() - started)
    prefill = {"num_tokens": PREFILL, "tokens_per_s": PREFILL / statistics.median(seconds[1:])}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps({"decode": decode, "prefill": prefill, **versions}))


if __name__ == "__main__":
    main()
