#!/usr/bin/env python3
"""How far the next token's distribution is from llama.cpp's on the same GGUF file: for prompts of random tokens, whether the
likeliest token is the same, and by how much the log-probabilities of the likeliest twenty differ. One line for each file.

    agree.py --peers DIR --binary target/debug/candlewick FILE.gguf... [--prompts 40]

llama.cpp rounds what it multiplies with quantised weights in blocks of its own size, so equality is not to be had; a model of random
weights has nearly flat distributions, so a small difference changes the likeliest token. What says something is the difference.
"""

import argparse
import json
import os
import pathlib
import random
import urllib.request

from compare import serving


def ask(port: int, path: str, body: dict) -> dict:
    """A POST's answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=120))


def ours(port: int, model: str, prompt: list[int]) -> list[tuple[int, float]]:
    """The likeliest twenty tokens with their log-probabilities, by Candlewick."""
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 20, "return_tokens_as_token_ids": True}
    top = ask(port, "/v1/completions", body)["choices"][0]["logprobs"]["top_logprobs"][0]
    return sorted(((int(token.removeprefix("token_id:")), p) for token, p in top.items()), key=lambda pair: -pair[1])


def theirs(port: int, prompt: list[int]) -> list[tuple[int, float]]:
    """The same by llama.cpp."""
    body = {"prompt": prompt, "n_predict": 1, "n_probs": 20, "temperature": 0, "cache_prompt": False, "post_sampling_probs": False}
    top = ask(port, "/completion", body)["completion_probabilities"][0]["top_logprobs"]
    return sorted(((row["id"], row["logprob"]) for row in top), key=lambda pair: -pair[1])


def main() -> None:
    """Asks both about each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--peers", type=pathlib.Path, required=True)
    parser.add_argument("--binary", type=pathlib.Path, required=True)
    parser.add_argument("--prompts", type=int, default=40)
    args = parser.parse_args()
    generator = random.Random(0)
    prompts = [[generator.randrange(300, 20_000) for _ in range(generator.randrange(4, 64))] for _ in range(args.prompts)]
    server = args.peers.resolve() / "llama.cpp/build/bin/llama-server"
    for file in map(pathlib.Path.resolve, args.files):
        threads = os.cpu_count()
        with serving(f"{server} -m {file} -t {threads} --port {{port}}", str(file)) as port:
            expected = [theirs(port, prompt) for prompt in prompts]
        with serving(f"{args.binary.resolve()} serve {{model}} --no-store --port {{port}}", str(file)) as port:
            found = [ours(port, str(file), prompt) for prompt in prompts]
        same = sum(a[0][0] == b[0][0] for a, b in zip(found, expected, strict=True))
        gaps = [abs(p - dict(b)[token]) for a, b in zip(found, expected, strict=True) for token, p in a if token in dict(b)]
        print(
            f"{file.name}: the same likeliest token {same} times of {len(prompts)}; log-probabilities differ by "
            f"{sum(gaps) / len(gaps):.4f} in the mean and {max(gaps):.4f} at most, of {len(gaps)} tokens among both likeliest twenty"
        )


if __name__ == "__main__":
    main()
