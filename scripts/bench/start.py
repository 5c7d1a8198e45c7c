#!/usr/bin/env python3
"""How long a server takes from exec to its first answer, and to its model; prints one JSON line. Needs nothing.

    start.py --binary target/debug/candlewick
    HF_HUB_CACHE=HUB start.py --binary target/debug/candlewick --model bench/qwen2-0.5b --runs 5

Each run starts a server of its own: from just before exec until the port answers, and until a completion of one token has been
answered, which loads the model first. The client asks for the port again every half millisecond. A file of weights that is to be
read from the page cache has to be in it: the first run sees to that and is not counted.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import tempfile
import time

from compare import free_port


def connect(port: int, process: subprocess.Popen) -> http.client.HTTPConnection:
    """A connection, as soon as there is somebody to connect to."""
    while process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        try:
            connection.connect()
            return connection
        except ConnectionRefusedError:
            time.sleep(0.0005)
    raise SystemExit(f"the server ended with {process.returncode}")


def run(binary: str, model: str, flags: list[str]) -> dict:
    """Milliseconds from exec to each thing."""
    port = free_port()
    data = tempfile.TemporaryDirectory()
    command = [binary, "serve", "--port", str(port), "--data-dir", data.name, *flags]
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0})
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        connection = connect(port, process)
        listens = time.perf_counter()
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        answered = time.perf_counter()
        assert answer.status == 200, text
        return {"listens_ms": (listens - begun) * 1e3, "answered_ms": (answered - begun) * 1e3}
    finally:
        process.kill()
        process.wait()
        data.cleanup()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/debug/candlewick")
    parser.add_argument("--model", default="candlewick/ember")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("flags", nargs="*", help="after --: more flags of `serve`")
    args = parser.parse_args()
    run(args.binary, args.model, args.flags)
    runs = [run(args.binary, args.model, args.flags) for _ in range(args.runs)]
    median = {name: round(statistics.median(each[name] for each in runs), 1) for name in runs[0]}
    worst = {name: round(max(each[name] for each in runs), 1) for name in runs[0]}
    bytes_of_binary = os.path.getsize(args.binary)
    print(json.dumps({"model": args.model, "runs": args.runs, "median": median, "worst": worst, "binary": bytes_of_binary}))


if __name__ == "__main__":
    main()
