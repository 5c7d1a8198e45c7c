#!/usr/bin/env python3
"""Twenty minutes under fire: a server of two models, clients of every kind, and something that breaks every few seconds.

    cargo build && scripts/reliability/soak.py                 # target/debug/candlewick, 20 minutes, 24 clients
    scripts/reliability/soak.py --minutes 3 --clients 8 --seed 7

First every request is answered once with nothing else going on: its twin. Then clients send them at random, whole and
streamed; some leave in the middle, some read slowly. Every --crash-every seconds a batcher or stepper panics, fails, is
killed or hangs, or one request's tokenizer, template, actor or writer breaks; every --config-every seconds the settings file
is rewritten. At the end the last line is one JSON object, and the exit status is 1 unless

- every finished answer is its twin's, to the byte (text, calls, log-probabilities, why it ended);
- every error is one that was made, and names its request;
- nothing is left: no request, no block of the KV cache, no thread, no actor and no descriptor more than before;
- memory is flat: what the server holds in the last quarter is at most --growth-max above the quarter before.

Needs a build with failpoints (a debug build, or --features failpoints), Linux, and nothing but Python.
"""

from __future__ import annotations

import argparse
import collections
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ["candlewick/ember", "acme/tiny-qwen2"]
QUESTIONS = ["Hello!", "What is the capital of France?", "Who are you?", "Tell me a story.", "Count from 1 to 20.",
             "How do I use Candlewick?", "What is the weather in Oslo?", "Thanks, and goodbye."]
SCHEMA = {"type": "object", "properties": {"country": {"type": "string", "maxLength": 12},
                                           "capital": {"type": "string", "maxLength": 12}},
          "required": ["country", "capital"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"],
    "additionalProperties": False}}}
# What nobody may notice, and what one request is told.
SURVIVED = [(place, action) for place in ("stepper", "batcher") for action in ("panic", "error", "kill", "hang")]
TOLD = [(place, action) for place in ("tokenizer", "template", "request", "sse") for action in ("panic", "error")]


def make_request(rng: random.Random, number: int) -> dict:
    body = {"model": rng.choice(MODELS), "messages": [{"role": "user", "content": f"{rng.choice(QUESTIONS)} ({number})"}],
            "temperature": rng.choice([0, 0.8, 1.2]), "seed": number, "max_tokens": rng.choice([8, 40, 120, 300]),
            "stream": rng.random() < 0.6}
    kind = rng.randrange(7)
    if kind == 1:
        body["n"] = rng.choice([2, 3])
    elif kind == 2:
        body["logprobs"], body["top_logprobs"] = True, 3
    elif kind == 3:
        body["stop"] = ["e.", "an "]
    elif kind == 4:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
    elif kind == 5:
        body["tools"], body["tool_choice"] = [TOOL], "required"
    elif kind == 6:
        body["ignore_eos"], body["repetition_penalty"] = True, 1.1
    return body


class Broken(Exception):
    """The answer is an error: its object."""

    def __init__(self, error: dict):
        super().__init__(error)
        self.error = error


class Left(Exception):
    """The client has left."""


def ask(port: int, body: dict, request_id: str, leave_after: int | None = None, pause: float = 0.0):
    """What is said, in one form whether whole or streamed. Raises Broken, or Left."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=180)
    try:
        if pause:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        payload = json.dumps(body)
        connection.request("POST", "/v1/chat/completions", payload,
                           {"content-type": "application/json", "x-request-id": request_id})
        if leave_after is not None and not body["stream"]:
            time.sleep(leave_after / 100)
            raise Left
        response = connection.getresponse()
        if response.status != 200 or not body["stream"]:
            answer = json.loads(response.read())
            if "error" in answer:
                raise Broken(answer["error"])
            return [whole(choice) for choice in answer["choices"]]
        return streamed(response, leave_after, pause)
    finally:
        connection.close()


def whole(choice: dict) -> dict:
    message = choice["message"]
    calls = [[call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls") or []]
    logprobs = (choice.get("logprobs") or {}).get("content") or []
    return {"text": message.get("content") or "", "calls": calls, "logprobs": logprobs, "end": choice["finish_reason"]}


def streamed(response, leave_after: int | None, pause: float) -> list[dict]:
    choices: dict[int, dict] = {}
    num_chunks = 0
    while line := response.readline():
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            if all(choice["end"] for choice in choices.values()):
                return [choices[index] for index in sorted(choices)]
            break
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise Broken(chunk["error"])
        for choice in chunk["choices"]:
            said = choices.setdefault(choice["index"], {"text": "", "calls": [], "logprobs": [], "end": None})
            delta = choice["delta"]
            said["text"] += delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                while len(said["calls"]) <= call["index"]:
                    said["calls"].append(["", ""])
                said["calls"][call["index"]][0] += call["function"].get("name") or ""
                said["calls"][call["index"]][1] += call["function"].get("arguments") or ""
            said["logprobs"] += (choice.get("logprobs") or {}).get("content") or []
            said["end"] = choice.get("finish_reason") or said["end"]
        num_chunks += 1
        if leave_after is not None and num_chunks > leave_after:
            raise Left
        if pause:
            time.sleep(pause)
    raise Broken({"message": f"the stream broke off after {num_chunks} chunks", "code": "broke_off"})


class Server:
    """A Candlewick that can be made to fail."""

    def __init__(self, binary: pathlib.Path, folder: pathlib.Path, env: dict[str, str]):
        self.config = folder / "candlewick.toml"
        self.write_config(0)
        self.log = open(folder / "server.log", "w")
        env = {**os.environ, "HF_HUB_CACHE": str(ROOT / "tests/fixtures/hub"), "HF_HUB_OFFLINE": "1", **env}
        self.process = subprocess.Popen(
            [binary, "serve", "--failpoints", "--port", "0", "--config", self.config, "--no-store"],
            env=env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"listens at http://[^:]+:(\d+)", line)
        if not found:
            raise SystemExit(f"the server did not start: {line!r}, see {self.log.name}")
        self.port = int(found[1])

    def write_config(self, turn: int) -> None:
        """What may change while streams run. Renamed into place, as editors and orchestrators do."""
        text = (f'[server]\nkeep_alive = "{[1, 2][turn % 2]}s"\n'
                f'[models]\nmodel_timeout = "{[300, 600][turn % 2]}s"\n'
                f'aliases = {{ blue-green = "{MODELS[turn % 2]}" }}\n'
                f'[engine]\nmax_restarts = 1000000\nhang_timeout = "2s"\nmax_queued = {[256, 300][turn % 2]}\n'
                f'[log]\nlevel = "{["warning", "error"][turn % 2]}"\n')
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    def call(self, method: str, path: str, body: dict | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        _, text = self.call("GET", "/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{re.escape(name)}[ {{]", line))

    def rss_mb(self) -> float:
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def num_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def num_threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def left_over(self) -> dict[str, float]:
        names = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                 "candlewick_threads_lost", "candlewick_actors"]
        return {name: self.metric(name) for name in names}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Soak:
    def __init__(self, server: Server, options: argparse.Namespace):
        self.server, self.options = server, options
        rng = random.Random(options.seed)
        self.requests = [make_request(rng, number) for number in range(options.requests)]
        self.twins: list = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[dict] = []
        self.lock = threading.Lock()
        self.until = 0.0
        self.samples: list[tuple[float, float, int]] = []

    def prepare(self) -> None:
        """Twins, each twice: a request whose answer is not always the same could tell nothing."""
        first = [ask(self.server.port, body, "twin") for body in self.requests]
        self.twins = [ask(self.server.port, body, "twin") for body in self.requests]
        assert first == self.twins, "an undisturbed answer is not always the same"

    def client(self, number: int) -> None:
        rng = random.Random(self.options.seed * 1000 + number)
        turn = 0
        while time.monotonic() < self.until:
            turn += 1
            index = rng.randrange(len(self.requests))
            request_id = f"soak-{number}-{turn}"
            mood = rng.random()
            leave_after = rng.randrange(12) if mood < 0.15 else None
            pause = rng.choice([0.005, 0.03]) if mood > 0.85 else 0.0
            try:
                said = ask(self.server.port, self.requests[index], request_id, leave_after, pause)
                right = said == self.twins[index]
                self.note("answers" if right else "wrong", None if right else
                          {"request": self.requests[index], "said": said, "twin": self.twins[index]})
            except Left:
                self.note("clients that left")
            except Broken as broken:
                # Whether there were more of them than were made is looked at in the end.
                error = broken.error
                is_ours = request_id in str(error.get("message")) and error.get("code") == "internal_error"
                self.note("told errors" if is_ours else "wrong", None if is_ours else {"error": error})
            except OSError as error:
                self.note("wrong", {"error": repr(error), "id": request_id})

    def note(self, what: str, wrong: dict | None = None) -> None:
        with self.lock:
            self.counts[what] += 1
            if wrong is not None and len(self.wrong) < 5:
                self.wrong.append(wrong)

    def saboteur(self) -> None:
        rng = random.Random(self.options.seed + 1)
        while time.monotonic() + self.options.crash_every < self.until:
            time.sleep(self.options.crash_every)
            is_told = rng.random() < 0.2
            place, action = rng.choice(TOLD if is_told else SURVIVED)
            rule = {"place": place, "action": action, "skip": rng.randrange(20)}
            if place != "sse":
                rule["model"] = rng.choice(MODELS)
            self.server.call("POST", "/debug/failpoints", rule)
            self.note("breaks of one request" if is_told else "crashes")
            if action == "hang":
                # Once it is given up, the thread that was lost may end: there is no more to learn from it.
                time.sleep(self.options.crash_every)
                self.server.call("DELETE", "/debug/failpoints")

    def editor(self) -> None:
        turn = 0
        while time.monotonic() + self.options.config_every < self.until:
            time.sleep(self.options.config_every)
            turn += 1
            self.server.write_config(turn)
            self.note("configs written")

    def sampler(self) -> None:
        start = time.monotonic()
        while time.monotonic() < self.until:
            time.sleep(2)
            self.samples.append((time.monotonic() - start, self.server.rss_mb(), self.server.num_descriptors()))
            status, _ = self.server.call("GET", "/health")
            self.note("health checks" if status == 200 else "wrong", None if status == 200 else {"health": status})

    def run(self) -> dict:
        self.prepare()
        before = (self.server.num_descriptors(), self.server.num_threads(), self.server.metric("candlewick_actors"))
        self.until = time.monotonic() + self.options.minutes * 60
        jobs = [self.saboteur, self.editor, self.sampler]
        threads = [threading.Thread(target=job) for job in jobs]
        threads += [threading.Thread(target=self.client, args=(number,)) for number in range(self.options.clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.server.call("DELETE", "/debug/failpoints")
        left = self.settle(before)
        third, fourth = self.quarter(2), self.quarter(3)
        report = {
            "minutes": self.options.minutes, "clients": self.options.clients, "seed": self.options.seed, **self.counts,
            "wrong": self.counts["wrong"], "batcher_restarts": self.server.metric("candlewick_batcher_restarts_total"),
            "batchers_hung": self.server.metric("candlewick_batchers_hung_total"),
            "struck": json.loads(self.server.call("GET", "/debug/failpoints")[1])["num_struck"], "left over": left,
            "rss_mb": {"third quarter": round(third, 1), "fourth quarter": round(fourth, 1)},
        }
        growth = fourth / third - 1
        is_told_right = self.counts["told errors"] <= self.counts["breaks of one request"]
        report["passed"] = is_told_right and not self.counts["wrong"] and not any(left.values()) and growth <= self.options.growth_max
        report["exit_status"] = self.server.stop()
        return report

    def settle(self, before: tuple[int, int, float]) -> dict[str, float]:
        """What is left once everything should be over; it is waited for, for connections close when they close."""
        deadline = time.monotonic() + 30
        while True:
            left = self.server.left_over()
            left["candlewick_actors"] -= before[2]
            left["descriptors"] = max(0, self.server.num_descriptors() - before[0])
            left["threads"] = max(0, self.server.num_threads() - before[1] - self.options.slack_threads)
            if not any(left.values()) or time.monotonic() > deadline:
                return left
            time.sleep(0.5)

    def quarter(self, number: int) -> float:
        """The middle of what was held in a quarter of the time."""
        size = max(1, len(self.samples) // 4)
        rss = sorted(sample[1] for sample in self.samples[number * size:(number + 1) * size])
        return rss[len(rss) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/debug/candlewick")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--requests", type=int, default=80, help="different ones")
    parser.add_argument("--crash-every", type=float, default=5, metavar="SECONDS")
    parser.add_argument("--config-every", type=float, default=10, metavar="SECONDS")
    parser.add_argument("--growth-max", type=float, default=0.05, help="of memory, from the third quarter to the fourth")
    parser.add_argument("--seed", type=int, default=1)
    # The blocking pool keeps threads for a while after their last work.
    parser.add_argument("--slack-threads", type=int, default=40, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="candlewick-soak-") as folder:
        soak = Soak(Server(options.binary, pathlib.Path(folder), {}), options)
        try:
            report = soak.run()
        finally:
            soak.server.process.kill()
        for wrong in soak.wrong:
            print(json.dumps(wrong)[:2000], file=sys.stderr)
        if not report["passed"]:
            print((pathlib.Path(folder) / "server.log").read_text()[-4000:], file=sys.stderr)
        print(json.dumps(report))
        sys.exit(not report["passed"])


if __name__ == "__main__":
    main()
