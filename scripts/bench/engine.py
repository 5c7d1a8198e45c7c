#!/usr/bin/env python3
"""Compares engines in one run: decode steps of 1, 8 and 32 sequences and a prompt of 512 tokens, round after round.

    scripts/bench/peers DIR
    engine.py --peers DIR --work FOLDER [--model qwen2-0.5b]... [--rounds 5]

Makes the checkpoints and GGUF files below FOLDER where they are missing, and builds `benches/step.rs`. In each round every
entrant runs once, alone: ours (the same program that is served, in the `dev` profile), llama.cpp with its weights mapped from
the file, llama.cpp with them on huge pages, and torch. Prints a line for each run and one JSON object at the end; `report.py`
makes tables of it. --under 'COMMAND' puts a command before each entrant, such as one that gives it the cores.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
FIGURES = ("1", "8", "32", "prefill")
#: What is compared: our input and how it is loaded, and the suffix of llama.cpp's file.
FORMATS = {
    "bf16": ("folder", [], "bf16"),
    "Q8_0": ("q8_0", [], "q8_0"),
    "Q4_0": ("q4_0", [], "q4_0"),
    "Q4_K_M": ("q4_k_m", [], "q4_k_m"),
    "int8 on load": ("folder", ["--quantization", "int8"], None),
}
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def last_json(words: list, env: dict[str, str] | None = None, under: str = "") -> list[dict]:
    """Runs a program; the JSON objects among the lines that it printed."""
    command = [*shlex.split(under), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    lines = [json.loads(line) for line in done.stdout.splitlines() + done.stderr.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return lines


def bench(name: str) -> pathlib.Path:
    """The built program of one of our benches."""
    words = ["cargo", "bench", "--profile", "dev", "--bench", name, "--no-run", "--message-format", "json"]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    built = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(pathlib.Path(line["executable"]) for line in built if line.get("executable") and line["target"]["name"] == name)


def of_steps(figures: dict) -> dict[str, float]:
    """Tokens a second from the line of `step.rs` or `torch_steps.py`; of ours also the weights that batch 1 reads, in GB/s."""
    decode = {str(row["num_sequences"]): row for row in figures["decode"]}
    rates = {key: decode[key]["tokens_per_s"] for key in FIGURES[:-1]}
    reads = {"gb_per_s": decode["1"]["weight_gb_per_s"]} if "weight_gb_per_s" in decode["1"] else {}
    return {**rates, "prefill": figures["prefill"]["tokens_per_s"], **reads}


def ours(program: pathlib.Path, model: pathlib.Path, options: list[str], under: str) -> dict[str, float]:
    """Candlewick."""
    return of_steps(last_json([program, "--bench", model, *options], under=under)[-1])


def llama(program: pathlib.Path, model: pathlib.Path, huge_pages: bool, threads: int, under: str) -> dict[str, float]:
    """llama.cpp: sequences share the prompt of 128 tokens, which costs it no decode time."""
    words = [program, "-m", model, "-t", threads, "-tb", threads, "-c", 17408, "-npp", "512,128", "-ntg", 16, "-npl", "1,8,32"]
    words += ["-pps", "--output-format", "jsonl", *(["-lm", "none"] if huge_pages else [])]
    rows = last_json(words, HUGE_PAGES if huge_pages else None, under)
    decode = {str(row["pl"]): row["speed_tg"] for row in rows if row["pp"] == 128}
    return {**decode, "prefill": statistics.median(row["speed_pp"] for row in rows if row["pp"] == 512)}


def torch(python: pathlib.Path, folder: pathlib.Path, threads: int, under: str) -> dict[str, float]:
    """transformers on torch."""
    env = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    return of_steps(last_json([python, HERE / "torch_steps.py", folder], env, under)[-1])


def entrants(args: argparse.Namespace, model: str, step: pathlib.Path) -> dict[tuple[str, str], Callable[[], dict[str, float]]]:
    """Who takes part: (format, engine) and how it is measured. A peer that is not there is said and left out."""
    batched = args.peers / "llama.cpp/build/bin/llama-batched-bench"
    python = args.peers / "venv/bin/python"
    hub, files = args.work / "hub", args.work / "gguf"
    subprocess.run([python, HERE / "make_models.py", "--cache", hub, "--model", model], check=True, stdout=subprocess.DEVNULL)
    [folder] = (hub / f"models--bench--{model}" / "snapshots").iterdir()
    if batched.exists():
        convert = [python, HERE / "gguf_models.py", "--llama", args.peers / "llama.cpp", "--cache", hub, "--model", model]
        subprocess.run([*convert, "--out", files], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    else:
        print("llama.cpp is not there: not measured, nor our GGUF rows", file=sys.stderr)
    found = {}
    for name, (source, options, suffix) in FORMATS.items():
        if name not in args.format:
            continue
        path = folder if source == "folder" else files / f"{model}-{source}.gguf"
        if path.exists():
            found[name, "candlewick"] = lambda path=path, options=options: ours(step, path, options, args.under)
        if suffix and batched.exists():
            file = files / f"{model}-{suffix}.gguf"
            for engine, huge in (("llama.cpp", False), ("llama.cpp, huge pages", True)):
                found[name, engine] = lambda file=file, huge=huge: llama(batched, file, huge, args.threads, args.under)
        if name == "bf16":
            found[name, "torch"] = lambda: torch(python, folder, args.threads, args.under)
    return found


def main() -> None:
    """Measures in rounds, prints medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=pathlib.Path, required=True, help="what scripts/bench/peers made")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="where models are kept")
    parser.add_argument("--model", action="append", help="a shape of make_models.py; default qwen2-0.5b")
    parser.add_argument("--format", action="append", choices=FORMATS, help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--under", default="", help="a command that each entrant runs under")
    args = parser.parse_args()
    args.peers, args.work = args.peers.resolve(), args.work.resolve()
    args.format = args.format or list(FORMATS)
    step, kernels = bench("step"), bench("kernels")
    samples: dict[str, dict[tuple[str, str], list[dict[str, float]]]] = {}
    limits = []
    field = {model: entrants(args, model, step) for model in args.model or ["qwen2-0.5b"]}
    for number in range(args.rounds):
        limits.append(last_json([kernels, "--bench", "--limits"], under=args.under)[-1]["limits"])
        print(f"round {number + 1}: {limits[-1]}", flush=True)
        for model, runs in field.items():
            for who, run in runs.items():
                figures = run()
                samples.setdefault(model, {}).setdefault(who, []).append(figures)
                print(f"  {model}, {', '.join(who)}: " + ", ".join(f"{k} {figures[k]:.1f}" for k in FIGURES), flush=True)

    def medians(runs: list[dict[str, float]]) -> dict[str, float]:
        return {key: statistics.median(run[key] for run in runs) for key in runs[0]}

    best = {key: max(limit[key] for limit in limits) for key, value in limits[0].items() if value is not None}
    results = [
        {"model": model, "format": kind, "engine": engine, "medians": medians(runs), "runs": runs}
        for model, by_entrant in samples.items()
        for (kind, engine), runs in by_entrant.items()
    ]
    print(json.dumps({"kind": "engine", "rounds": args.rounds, "threads": args.threads, "limits": best, "results": results}))


if __name__ == "__main__":
    main()
