#!/usr/bin/env python3
"""How many requests a second a server answers when the model costs next to nothing: chat completions of one token, not streamed,
over connections that are kept alive. The servers take turns, round after round; medians at the end, and one JSON object.

    make_models.py --cache HUB --model tiny
    HF_HUB_CACHE=HUB requests_per_second.py --model bench/tiny --connections 8 \
        --server candlewick='target/debug/candlewick serve {model} --port {port}' --server llama-server='llama-server …'

Needs wrk.
"""

import argparse
import json
import re
import statistics
import subprocess
import tempfile

from compare import serving

REQUEST = """wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{"model": "%s", "messages": [{"role": "user", "content": "return class value"}], "max_tokens": 1, "temperature": 0}'
"""


def measure(command: str, args: argparse.Namespace) -> float:
    """One turn of one server: requests a second, after a second that warms it up. Refused or failed ones end the comparison."""
    with serving(command, args.model) as port, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(REQUEST % args.model)
        script.flush()
        words = ["wrk", "-t1", f"-c{args.connections}", "-s", script.name]
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        subprocess.run([*words, "-d1s", url], check=True, stdout=subprocess.DEVNULL)
        said = subprocess.run([*words, f"-d{args.seconds}s", url], check=True, capture_output=True, text=True).stdout
        if "Non-2xx" in said or "Socket errors" in said:
            print(f"  not all requests were answered: {said}", flush=True)
        return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])


def main() -> None:
    """Measures in rounds, prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", action="append", required=True, metavar="NAME=COMMAND")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=4)
    args = parser.parse_args()
    servers = dict(server.split("=", 1) for server in args.server)
    samples = {name: [] for name in servers}
    for number in range(args.rounds):
        for name, command in servers.items():
            samples[name].append(measure(command, args))
            print(f"round {number + 1}, {name}: {samples[name][-1]:.0f} requests/s", flush=True)
    medians = {name: statistics.median(rates) for name, rates in samples.items()}
    shape = {"model": args.model, "connections": args.connections, "rounds": args.rounds}
    print(json.dumps({"kind": "requests", **shape, "medians": medians, "runs": samples}))


if __name__ == "__main__":
    main()
