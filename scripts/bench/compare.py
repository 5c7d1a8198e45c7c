#!/usr/bin/env python3
"""Compares servers over HTTP in one run: the same load on each in turn, round after round, medians and ratios at the end.

    make_models.py --cache HUB --model qwen2-0.5b
    HF_HUB_CACHE=HUB compare.py --model bench/qwen2-0.5b \
        --server candlewick='target/release/candlewick serve {model} --port {port}' \
        --server transformers='transformers serve {model} --continuous-batching --port {port}'

The first server named is the one that the ratios are for. Each is started alone, for its turn only, so that none holds
memory or threads while another is measured. The last line is one JSON object. Needs aiohttp.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

LOAD = pathlib.Path(__file__).parent / "load.py"
FIGURES = ("output_tok_s", "ttft_ms_p50", "itl_ms_p50")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def status(port: int, path: str) -> int:
    """The HTTP status of a path; 0 where nothing listens."""
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_until_ready(port: int, process: subprocess.Popen, patience_s: float = 300) -> None:
    """Returns once the server answers: /ready where there is one, else /health."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with status {process.returncode} before it answered")
        ready = status(port, "/ready")
        if ready == 200 or (ready == 404 and status(port, "/health") == 200):
            return
        time.sleep(0.2)
    raise SystemExit("the server did not answer in time")


@contextlib.contextmanager
def serving(command: str, model: str) -> Iterator[int]:
    """A server for its turn, ready, on the port that is given."""
    port = free_port()
    words = shlex.split(command.format(model=model, port=port))
    with open(os.devnull, "wb") as silent:
        process = subprocess.Popen(words, stdout=silent, stderr=silent, start_new_session=True)
        try:
            wait_until_ready(port, process)
            yield port
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(command: str, args: argparse.Namespace) -> dict[int, dict]:
    """One turn of one server: a load at each concurrency, each with prompts of its own, so that no cache helps."""
    with serving(command, args.model) as port:
        return {concurrency: load(port, concurrency, args) for concurrency in args.concurrency}


def load(port: int, concurrency: int, args: argparse.Namespace) -> dict:
    """The figures of one load."""
    output = subprocess.run(
        [
            sys.executable, LOAD, "--base-url", f"http://127.0.0.1:{port}/v1", "--model", args.model,
            "--concurrency", str(concurrency), "--requests", str(max(args.requests_min, concurrency)),
            "--prompt-tokens", str(args.prompt_tokens), "--max-tokens", str(args.max_tokens),
            "--seed", str(concurrency * 10_000),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not output.stdout:
        raise SystemExit(output.stderr)
    figures = json.loads(output.stdout)
    if figures["errors"]:
        print(f"  {figures['errors']} requests failed: {figures['first_error']}", flush=True)
    return figures


def main() -> None:
    """Parses, measures in rounds, prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests-min", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    servers = dict(server.split("=", 1) for server in args.server)
    samples = {name: {concurrency: [] for concurrency in args.concurrency} for name in servers}
    for number in range(args.rounds):
        for name, command in servers.items():
            print(f"round {number + 1}: {name}", flush=True)
            for concurrency, figures in measure(command, args).items():
                samples[name][concurrency].append(figures)
                print(f"  c={concurrency}: " + ", ".join(f"{key} {figures[key]}" for key in FIGURES), flush=True)
    medians = {
        name: {
            concurrency: {key: statistics.median(run[key] for run in runs) for key in FIGURES}
            for concurrency, runs in by_concurrency.items()
        }
        for name, by_concurrency in samples.items()
    }
    first = next(iter(servers))
    for concurrency in args.concurrency:
        for name in servers:
            figures = medians[name][concurrency]
            ratio = medians[first][concurrency]["output_tok_s"] / max(figures["output_tok_s"], 1e-9)
            print(f"c={concurrency} {name}: {figures}; {first} gives {ratio:.2f} times its tokens a second")
    shape = {"model": args.model, "prompt_tokens": args.prompt_tokens, "max_tokens": args.max_tokens}
    print(json.dumps({"kind": "http", **shape, "rounds": args.rounds, "medians": medians}))


if __name__ == "__main__":
    main()
