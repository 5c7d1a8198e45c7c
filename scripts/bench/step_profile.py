#!/usr/bin/env python3
"""Where the time of a step goes: `perf record` over `benches/step.rs`, each sample put down to what it was doing.

    step_profile.py MODEL [--batch 1] [--prefill] [--seconds 6] [--quantization q4_0] [--program STEP]

MODEL is a folder or a GGUF file. Samples are told apart by the source line that they fall on, inlined ones included, so that
what the compiler made of a kernel does not hide it; a thread that spins or yields because another one is not done yet is
waiting. Prints a table; shares are of the samples of all threads.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess
import tempfile

import engine

#: What a source file is about, by the first pattern that its innermost lines have, from the inside out.
ROOMS = [
    (r"packed/(avx512|avx2|float|portable|tile)\.rs", "matrix products"),
    (r"packed/product\.rs|activation\.rs", "matrix products: bias, residual, gate, storing"),
    (r"packed/input\.rs|kernels/(norm|dot)\.rs", "norms, rounding activations"),
    (r"kernels/attention\.rs", "attention"),
    (r"kernels/rope\.rs|kernels/kv\.rs|layers/rope\.rs", "rotation, writing the cache"),
    (r"models/(sampler|model)|kernels/exp\.rs|head\.rs", "exponentials, sampling"),
    (r"kernels/pool\.rs", "waiting for another thread"),
    (r"packed/pack\.rs|packed/blocks\.rs|weights\.rs", "loading"),
]
#: The same for functions without a source line of ours.
NAMES = [
    (r"clear_page|page_fault|clear_huge|folio|unmap|zap_|madvise", "page faults"),
    (r"sched|switch|yield|futex|clock_gettime|park|irq|syscall", "waiting for another thread"),
    (r"^_?mi_|malloc|free", "allocation"),
    (r"memset|memcpy|memmove", "zeroing and copying"),
]


def samples(program: pathlib.Path, words: list, delay_s: float) -> collections.Counter:
    """How many samples fell on each address (of our program) or name (of anything else)."""
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder, "perf.data")
        record = ["perf", "record", "-q", "-F", "2000", "-D", str(int(delay_s * 1000)), "-o", data, "--", program, *words]
        subprocess.run(list(map(str, record)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        script = ["perf", "script", "-i", data, "-F", "ip,sym,dso", "--show-mmap-events"]
        text = subprocess.run(list(map(str, script)), capture_output=True, text=True, check=True).stdout
    base, counts = None, collections.Counter()
    for line in text.splitlines():
        if mapped := re.search(r"PERF_RECORD_MMAP2? .*\[(0x[0-9a-f]+)\((0x[0-9a-f]+)\) @ (0x[0-9a-f]+|0) .*r-xp (.*)$", line):
            if mapped[4].strip() == str(program):
                base = (int(mapped[1], 16), int(mapped[2], 16), int(mapped[3], 16))
        elif sample := re.match(r"\s*([0-9a-f]+) (.*) \((.*)\)$", line):
            address = int(sample[1], 16)
            inside = base and base[0] <= address < base[0] + base[1]
            counts[address - base[0] + base[2] if inside else sample[2]] += 1
    return counts


def virtual(program: pathlib.Path, offsets: list[int]) -> list[int]:
    """Offsets in the file as addresses of its debug information."""
    headers = subprocess.run(["readelf", "-lW", program], capture_output=True, text=True, check=True).stdout
    loads = [[int(x, 16) for x in row] for row in re.findall(r"LOAD\s+(0x\S+) (0x\S+) 0x\S+ (0x\S+)", headers)]
    return [next(at - start + address for start, address, size in loads if start <= at < start + size) for at in offsets]


def rooms(program: pathlib.Path, offsets: list[int]) -> dict[int, str]:
    """What the program does at each place."""
    words = ["addr2line", "-e", program, "-i", "-f", "-C", "-a"]
    addresses = "\n".join(hex(at) for at in virtual(program, offsets))
    text = subprocess.run(list(map(str, words)), input=addresses, capture_output=True, text=True, check=True).stdout
    places = re.split(r"^0x[0-9a-f]+\n", text, flags=re.MULTILINE)[1:]
    return {at: room(place.splitlines()) for at, place in zip(offsets, places, strict=True)}


def room(lines: list[str]) -> str:
    """By the innermost line of ours; names where there is none."""
    for line in lines[1::2]:
        for pattern, name in ROOMS:
            if re.search(pattern, line):
                return name
    return by_name(" ".join(lines))


def by_name(text: str) -> str:
    return next((name for pattern, name in NAMES if re.search(pattern, text)), "everything else")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prefill", action="store_true", help="a prompt of 512 tokens rather than decode steps")
    parser.add_argument("--seconds", type=float, default=6, help="how long to look, about")
    parser.add_argument("--quantization")
    parser.add_argument("--program", type=pathlib.Path, help="the built bench; without it, it is built")
    args = parser.parse_args()
    program = (args.program or engine.bench("step")).resolve()
    kind = ["--quantization", args.quantization] if args.quantization else []
    fixed = ["--bench", args.model, *kind, "--batch", args.batch, "--prefill", 512 if args.prefill else 1]
    trial = engine.last_json([program, *fixed, "--runs", 3])[-1]
    step_s = 512 / trial["prefill"]["tokens_per_s"] if args.prefill else trial["decode"][0]["ms_per_step"] / 1e3
    runs = max(3, int((args.seconds + 1) / step_s))
    counts = samples(program, [*fixed, "--runs", runs], trial["load_s"] * 1.5)
    of = rooms(program, [at for at in counts if isinstance(at, int)])
    totals = collections.Counter()
    for at, num in counts.items():
        totals[of[at] if isinstance(at, int) else by_name(at)] += num
    totals.pop("loading", None)
    print(json.dumps(trial))
    for name, num in totals.most_common():
        print(f"| {name} | {100 * num / totals.total():.1f} % |")


if __name__ == "__main__":
    main()
