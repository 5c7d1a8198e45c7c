#!/usr/bin/env python3
"""What idle connections cost those who are being answered: time from token to token with and without 2,000 of them.

    cargo build --release --features failpoints && scripts/reliability/idle.py --binary target/release/candlewick

Idle ones are streams of server-sent events that have nothing to say: subscribers to a load that stands still, each of which is
sent a comment every --keep-alive seconds. Active ones are streamed chats of candlewick/ember. Runs with and without are
alternated (--rounds), and the median of the rounds counts. The last line is one JSON object; the exit status is 1 if the
99th percentile with idle connections is more than --ratio-max times that without.

Needs a build with failpoints, about 2 descriptors for each connection in the server and one here, and nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import selectors
import socket
import statistics
import sys
import tempfile
import time

from soak import ROOT, Server


def post(path: str, body: dict) -> bytes:
    payload = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(payload)}\r\n\r\n").encode() + payload


def open_idle(port: int, count: int) -> list[socket.socket]:
    """Each has had its first frame; what comes later stays in the buffers of the system."""
    sockets = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(post("/load_model", {"model": "acme/tiny-llama"}))
        sockets.append(connection)
    for connection in sockets:
        connection.settimeout(60)
        head = connection.recv(4096)
        assert head.startswith(b"HTTP/1.1 200"), head
    return sockets


def active_gaps(port: int, num_streams: int, num_tokens: int) -> list[float]:
    """Seconds between the chunks of each stream, over all streams."""
    poll = selectors.DefaultSelector()
    for number in range(num_streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(post("/v1/chat/completions", {
            "model": "candlewick/ember", "messages": [{"role": "user", "content": f"Tell me story {number}."}], "seed": number,
            "temperature": 0.8, "max_tokens": num_tokens, "ignore_eos": True, "stream": True}))
        connection.setblocking(False)
        poll.register(connection, selectors.EVENT_READ, {"last": None, "tail": b""})
    gaps = []
    while poll.get_map():
        for key, _ in poll.select(60):
            data, now, state = key.fileobj.recv(65536), time.perf_counter(), key.data
            if b'"error"' in data:
                raise SystemExit(f"a stream failed: {data[:300]!r}")
            num_chunks = data.count(b"data: {")
            if num_chunks and state["last"] is not None:
                gaps.append(now - state["last"])
                # Chunks that came together had no gap between them.
                gaps += [0.0] * (num_chunks - 1)
            if num_chunks:
                state["last"] = now
            if not data or b"data: [DONE]" in state["tail"] + data:
                poll.unregister(key.fileobj)
                key.fileobj.close()
            state["tail"] = data[-16:]
    return gaps


def percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/debug/candlewick")
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--active", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep-alive", type=float, default=1, metavar="SECONDS")
    parser.add_argument("--ratio-max", type=float, default=1.2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="candlewick-idle-") as folder:
        env = {"CANDLEWICK_SERVER__KEEP_ALIVE": f"{options.keep_alive}s", "CANDLEWICK_MODELS__LOAD_STALL_TIMEOUT": "1h"}
        server = Server(options.binary, pathlib.Path(folder), env)
        try:
            server.call("POST", "/debug/failpoints", {"place": "loader", "action": "hang", "model": "acme/tiny-llama"})
            active_gaps(server.port, options.active, 16)
            alone, beside, rss = [], [], []
            for _ in range(options.rounds):
                alone.append(active_gaps(server.port, options.active, options.tokens))
                before = server.rss_mb()
                idle = open_idle(server.port, options.idle)
                beside.append(active_gaps(server.port, options.active, options.tokens))
                rss.append(server.rss_mb() - before)
                for connection in idle:
                    connection.close()
                deadline = time.monotonic() + 30
                while server.num_descriptors() > 200 and time.monotonic() < deadline:
                    time.sleep(0.1)
        finally:
            server.process.kill()
    def median_ms(runs: list[list[float]], share: float) -> float:
        return round(statistics.median(percentile(run, share) for run in runs) * 1000, 3)
    report = {"idle": options.idle, "active": options.active, "rounds": options.rounds, "keep_alive_s": options.keep_alive,
              "alone_ms": {"p50": median_ms(alone, 0.5), "p99": median_ms(alone, 0.99)},
              "beside_ms": {"p50": median_ms(beside, 0.5), "p99": median_ms(beside, 0.99)},
              "kb_per_idle": round(max(rss) * 1024 / max(1, options.idle), 1)}
    report["ratio_p99"] = round(report["beside_ms"]["p99"] / report["alone_ms"]["p99"], 3)
    print(json.dumps(report))
    sys.exit(report["ratio_p99"] > options.ratio_max)


if __name__ == "__main__":
    main()
