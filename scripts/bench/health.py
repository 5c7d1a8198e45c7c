#!/usr/bin/env python3
"""How long /health takes while a model loads and while requests decode; prints one JSON line. Needs aiohttp.

    HF_HUB_CACHE=HUB health.py --binary target/debug/candlewick --model bench/qwen2-0.5b --concurrency 32
"""

import argparse
import asyncio
import json
import subprocess
import time

import aiohttp

from compare import free_port, wait_until_ready


async def probe(session: aiohttp.ClientSession, url: str, until: asyncio.Event) -> list[float]:
    """Latencies of /health in milliseconds, one every 20 ms, until told to end."""
    latencies = []
    while not until.is_set():
        start = time.perf_counter()
        async with session.get(f"{url}/health") as answer:
            assert answer.status == 200
            await answer.read()
        latencies.append((time.perf_counter() - start) * 1e3)
        await asyncio.sleep(0.02)
    return latencies


def summary(latencies: list[float]) -> dict:
    """Count, median, 99th percentile and maximum."""
    ordered = sorted(latencies)
    at = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2)  # noqa: E731
    return {"count": len(ordered), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)}


async def while_running(session: aiohttp.ClientSession, url: str, work: list) -> dict:
    """Probes while the work is done."""
    done = asyncio.Event()
    probing = asyncio.create_task(probe(session, url, done))
    await asyncio.gather(*work)
    done.set()
    return summary(await probing)


async def post(session: aiohttp.ClientSession, url: str, body: dict) -> None:
    """Sends a request and reads all of its answer."""
    async with session.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()


async def measure(url: str, args: argparse.Namespace) -> dict:
    """Both situations."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        loading = await while_running(session, url, [post(session, f"{url}/load_model", {"model": args.model})])
        body = {
            "model": args.model, "stream": True, "temperature": 0, "max_tokens": args.max_tokens,
            "messages": [{"role": "user", "content": "import return class value " * 16}],
        }  # fmt: skip
        chats = [post(session, f"{url}/v1/chat/completions", body) for _ in range(args.concurrency)]
        return {"loading": loading, f"decoding_{args.concurrency}": await while_running(session, url, chats)}


def main() -> None:
    """Starts the server, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/debug/candlewick")
    parser.add_argument("--model", required=True)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    port = free_port()
    process = subprocess.Popen([args.binary, "serve", "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        wait_until_ready(port, process)
        print(json.dumps(asyncio.run(measure(f"http://127.0.0.1:{port}", args))))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
