#!/usr/bin/env python3
"""The whole comparison: gets the peers, measures engines, servers and requests a second in turns, and writes the tables of
docs/performance.md, each between two comments that name it.

    scripts/bench/table.py DIR [--only engine|larger|http|long|requests]... [--rounds 5] [--under COMMAND]

DIR keeps peers, models, GGUF files and the figures of each part (DIR/results/PART.json), so that a part can be measured anew and
`--only` nothing but the page written again (`--only none`). A peer that cannot be had is missing from the tables and named
beneath them. About 40 minutes on two cores without other work, and the peers' build before it.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs/performance.md"
COLUMNS = {"1": "decode, batch 1", "8": "batch 8", "32": "batch 32", "prefill": "prefill 512"}
PARAMETERS = {"qwen2-0.5b": 494e6, "qwen3-0.6b": 596e6, "llama-1b": 1236e6}
#: Multiply-adds of the head are done for the last token of a prompt only.
HEADS = {"qwen2-0.5b": 136e6, "qwen3-0.6b": 156e6, "llama-1b": 263e6}
CANDLEWICK, SERVE = "candlewick", "transformers serve"


def measured(part: str, words: list, args: argparse.Namespace, env: dict[str, str] | None = None) -> None:
    """Runs one part, shows what it prints, keeps its figures."""
    command = [str(word) for word in words]
    print(f"== {part}: {' '.join(command)}", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}, cwd=HERE)
    lines = []
    for line in process.stdout:
        lines.append(line)
        print(line if not line.startswith("{") else "", end="", flush=True)
    if process.wait():
        raise SystemExit(f"{part} ended with {process.returncode}")
    kept = {**json.loads(lines[-1]), "machine": machine(), "at": time.strftime("%Y-%m-%d %H:%M"), "commit": commit()}
    (args.dir / "results").mkdir(exist_ok=True)
    (args.dir / "results" / f"{part}.json").write_text(json.dumps(kept, indent=1))


def machine() -> str:
    """The processor's name and how many of its threads are ours."""
    found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} threads of {found[1] if found else platform.machine()}, Linux {platform.release()}"


def commit() -> str:
    """What is measured."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def servers(args: argparse.Namespace, model: str, context: int) -> list[str]:
    """The `--server` arguments: ours, and the peers that are there."""
    venv, binary = args.dir / "venv/bin", args.dir / "llama.cpp/build/bin/llama-server"
    serve = f"{venv}/transformers serve {{model}} --device cpu --dtype bfloat16 --port {{port}}"
    file = args.dir / "gguf" / f"{model}-bf16.gguf"
    found = {CANDLEWICK: f"{ROOT}/target/debug/candlewick serve {{model}} --port {{port}} --no-store"}
    if binary.exists():
        found["llama-server"] = f"{binary} -m {file} -t {args.threads} -tb {args.threads} --parallel 32 -c {context} --port {{port}}"
    if (venv / "transformers").exists():
        found[f"{SERVE} --continuous-batching"] = f"{serve} --continuous-batching"
    return [word for name, command in found.items() for word in ("--server", f"{name}={args.under} {command}")]


def measure(args: argparse.Namespace) -> None:
    """All parts that are asked for."""
    python = args.dir / "venv/bin/python"
    shared = ["--peers", args.dir, "--work", args.dir, "--threads", args.threads, "--under", args.under]
    env = {"HF_HUB_CACHE": str(args.dir / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(args.threads)}
    if "engine" in args.only:
        measured("engine", [python, "engine.py", *shared, "--rounds", args.rounds], args)
    if "larger" in args.only:
        models = ["--model", "qwen3-0.6b", "--model", "llama-1b"]
        measured("larger", [python, "engine.py", *shared, *models, "--rounds", max(1, args.rounds // 2)], args)
    if {"http", "long", "requests"} & set(args.only):
        subprocess.run(["cargo", "build"], cwd=ROOT, check=True)
    if "http" in args.only:
        words = ["--model", "bench/qwen2-0.5b", "--rounds", args.rounds, *servers(args, "qwen2-0.5b", 16384)]
        measured("http", [python, "compare.py", *words], args, env)
    if "long" in args.only:
        words = ["--model", "bench/qwen2-0.5b", "--rounds", max(1, args.rounds // 3), "--prompt-tokens", 1024, "--max-tokens", 128]
        measured("long", [python, "compare.py", *words, *servers(args, "qwen2-0.5b", 40960)], args, env)
    if "requests" in args.only:
        subprocess.run([python, HERE / "make_models.py", "--cache", args.dir / "hub", "--model", "tiny"], check=True)
        convert = ["--llama", args.dir / "llama.cpp", "--cache", args.dir / "hub", "--model", "tiny", "--out", args.dir / "gguf"]
        subprocess.run([python, HERE / "gguf_models.py", *convert], check=False, stdout=subprocess.DEVNULL)
        words = ["--model", "bench/tiny", "--rounds", args.rounds, *servers(args, "tiny", 16384)]
        measured("requests", [python, "requests_per_second.py", *words], args, env)


def engine_table(figures: dict) -> str:
    """For each model and format a row of each engine, and of ratios to the best of the others."""
    text, limits = [], figures["limits"]
    for model in dict.fromkeys(row["model"] for row in figures["results"]):
        rows = [row for row in figures["results"] if row["model"] == model]
        text += [f"\n{model}, tokens/s:\n", "| | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
        for kind in dict.fromkeys(row["format"] for row in rows):
            own = next(row["medians"] for row in rows if row["format"] == kind and row["engine"] == CANDLEWICK)
            peers = {row["engine"]: row["medians"] for row in rows if row["format"] == kind and row["engine"] != CANDLEWICK}
            text.append(f"| **{kind}** | " + " | ".join(f"**{own[key]:.1f}**" for key in COLUMNS) + " |")
            text += [f"| {name} | " + " | ".join(f"{peer[key]:.1f}" for key in COLUMNS) + " |" for name, peer in peers.items()]
            if peers:
                best = {key: max(peer[key] for peer in peers.values()) for key in COLUMNS}
                text.append("| times the best peer | " + " | ".join(f"{own[key] / best[key]:.2f}" for key in COLUMNS) + " |")
            text.append("| share of the limit | " + " | ".join(shares(model, kind, own, limits)) + " |")
    ours = f"reads of {limits['read_gb_per_s']:.1f} GB/s"
    for key, name in (("f32_gop_per_s", "f32 multiply-adds"), ("bf16_gop_per_s", "`vdpbf16ps`"), ("int8_gop_per_s", "`vpdpbusd`")):
        if key in limits:
            ours += f", {name} {limits[key]:.0f} GOP/s"
    text.append(f"\nThe machine alone, at the best in those rounds: {ours}.")
    return "\n".join([*text, provenance(figures)])


def shares(model: str, kind: str, own: dict[str, float], limits: dict[str, float]) -> list[str]:
    """At batch 1 of the bandwidth, in larger batches and prompts of the multiply-adds."""
    peak = limits.get("bf16_gop_per_s" if kind == "bf16" else "int8_gop_per_s")
    reads = own["gb_per_s"] / limits["read_gb_per_s"]
    parameters = PARAMETERS[model]
    adds = [own[key] * 2 * (parameters - (HEADS[model] if key == "prefill" else 0)) / 1e9 for key in ("8", "32", "prefill")]
    return [f"{reads:.0%} of reads", *(f"{rate / peak:.0%} of products" if peak else "" for rate in adds)]


def http_table(figures: dict) -> str:
    """For each concurrency and server: throughput, its ratio, and latencies."""
    rows = ["| concurrency | server | tokens/s | times it | TTFT p50, ms | ITL p50, ms |", "|---|---|---|---|---|---|"]
    names = list(figures["medians"])
    for concurrency, own in figures["medians"][CANDLEWICK].items():
        for name in names:
            row = figures["medians"][name][concurrency]
            ratio = "" if name == CANDLEWICK else f"{own['output_tok_s'] / row['output_tok_s']:.2f}"
            cells = [f"{row['output_tok_s']:.1f}", ratio, f"{row['ttft_ms_p50']:.0f}", f"{row['itl_ms_p50']:.1f}"]
            bold = "**" if name == CANDLEWICK else ""
            rows.append(f"| {concurrency} | {bold}{name}{bold} | " + " | ".join(cells) + " |")
    return "\n".join([*rows, provenance(figures)])


def requests_table(figures: dict) -> str:
    """Requests a second of each server."""
    own = figures["medians"][CANDLEWICK]
    rows = ["| server | requests/s | times it |", "|---|---|---|"]
    for name, rate in figures["medians"].items():
        rows.append(f"| {name} | {rate:.0f} | {'' if name == CANDLEWICK else f'{own / rate:.2f}'} |")
    return "\n".join([*rows, provenance(figures)])


def provenance(figures: dict) -> str:
    """Where and when."""
    return f"\n{figures['machine']}; commit {figures['commit']}, {figures['at']}; {figures['rounds']} rounds in turn, medians."


def versions(args: argparse.Namespace) -> str:
    """What the peers are."""
    code = "import torch, transformers; print(f'torch {torch.__version__}, transformers {transformers.__version__}')"
    torch = subprocess.run([args.dir / "venv/bin/python", "-c", code], capture_output=True, text=True, check=False)
    library = args.dir / "llama.cpp/build/bin/llama-server"
    said = subprocess.run([library, "--version"], capture_output=True, text=True, check=False) if library.exists() else None
    cmake = args.dir / "llama.cpp/ggml/CMakeLists.txt"
    ggml = ".".join(re.findall(r"set\(GGML_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)", cmake.read_text())) if cmake.exists() else ""
    lines = [
        torch.stdout.strip() or "transformers and torch could not be had, and are not in the tables",
        f"llama.cpp with ggml {ggml}, built for this machine" if said else "llama.cpp could not be had, and is not in the tables",
    ]
    return "Peers: " + "; ".join(lines) + f"; {args.threads} threads each."


def write(args: argparse.Namespace) -> None:
    """The tables of the page, from the figures that are kept."""
    page = PAGE.read_text()
    makers = {"engine": engine_table, "larger": engine_table, "http": http_table, "long": http_table, "requests": requests_table}
    tables = {
        part: make(json.loads(kept.read_text()))
        for part, make in makers.items()
        if (kept := args.dir / "results" / f"{part}.json").exists()
    }
    for name, table in {**tables, "peers": versions(args)}.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        page, found = re.subn(pattern, lambda match, table=table: f"{match[1]}{table.strip()}\n{match[2]}", page, flags=re.DOTALL)
        if not found:
            print(f"{PAGE} has no place for the table {name}", file=sys.stderr)
    PAGE.write_text(page)


def main() -> None:
    """Gets the peers, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--only", action="append", choices=["engine", "larger", "http", "long", "requests", "none"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--under", default="", help="a command that everything measured runs under")
    args = parser.parse_args()
    args.dir = args.dir.resolve()
    args.only = args.only or ["engine", "larger", "http", "long", "requests"]
    if args.only != ["none"]:
        subprocess.run([HERE / "peers", args.dir], check=True)
        measure(args)
    write(args)


if __name__ == "__main__":
    main()
