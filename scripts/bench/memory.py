#!/usr/bin/env python3
"""What a server's memory comes to: before a load, at its height, at rest, and after the unload; prints one JSON line. Linux.

    HF_HUB_CACHE=HUB memory.py --binary target/debug/candlewick --model bench/qwen2-0.5b

Figures are of /proc/PID/status in MB (10^6 bytes). `peak` is VmHWM when the load has ended; the pages of a file that is mapped count
in it. `file` is the checkpoint's size. `rest` is after an answer of some tokens, a second after the load; the KV cache is taken as it
is written, so that it is small there. `rounds` loads and unloads again and tells what is left each time.
"""

import argparse
import http.client
import json
import subprocess
import time

from compare import free_port
from start import connect


def status(process: subprocess.Popen) -> dict:
    """Resident memory now and at its height."""
    with open(f"/proc/{process.pid}/status", encoding="utf8") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    megabytes = lambda name: round(int(fields[name].split()[0]) * 1024 / 1e6, 1)  # noqa: E731
    return {"rss": megabytes("VmRSS"), "peak": megabytes("VmHWM"), "file": megabytes("RssFile"), "anon": megabytes("RssAnon")}


def post(connection: http.client.HTTPConnection, path: str, body: dict) -> None:
    """Sends and waits for the whole answer."""
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/debug/candlewick")
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("flags", nargs="*", help="after --: more flags of `serve`")
    args = parser.parse_args()
    port = free_port()
    command = [args.binary, "serve", "--port", str(port), "--no-store", *args.flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        connection = connect(port, process)
        figures = {"model": args.model, "before": status(process), "rounds": []}
        for _ in range(args.rounds):
            began = time.perf_counter()
            post(connection, "/v1/models/load", {"model": args.model})
            seconds = time.perf_counter() - began
            loaded = status(process)
            post(connection, "/v1/completions", {"model": args.model, "prompt": "Hello", "max_tokens": 16, "temperature": 0})
            time.sleep(1)
            rest = status(process)
            post(connection, "/v1/models/unload", {"model": args.model})
            time.sleep(1)
            figures["rounds"].append(
                {"load_s": round(seconds, 2), "loaded": loaded, "rest": rest, "unloaded": status(process)}
            )
        print(json.dumps(figures))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
