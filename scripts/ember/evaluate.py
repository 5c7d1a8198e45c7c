"""Asks the written checkpoint what training never asked: held-out phrasings, names, cities and nouns.

    python evaluate.py [--per-group 150] [--show]

Prints the accuracy of each group and, as the last line, all figures as JSON.
"""

import argparse
import json
import random
from collections import Counter

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import corpus
from chat import CHECKPOINT, prompt, template
from model import Config, Qwen3

GROUPS = {
    "facts": [corpus.country_sample, corpus.fact_sample], "small facts": [corpus.small_fact_sample], "sums": [corpus.sum_sample],
    "persona": [corpus.persona_sample, corpus.persona_sample, corpus.named_sample], "candlewick": [corpus.candlewick_sample],
    "follow-up": [corpus.follow_sample], "memory": [corpus.memory_sample], "repeat": [corpus.repeat_sample],
    "creative": [corpus.creative_sample], "unknown": [corpus.unknown_sample], "json": [corpus.json_sample],
    "tool calls": [corpus.tool_call_sample], "tool results": [corpus.tool_result_sample, corpus.two_results_sample],
    "no call": [corpus.no_call_sample],
}


def load(folder=CHECKPOINT):
    raw = json.loads((folder / "config.json").read_text())
    model = Qwen3(Config(**{k: raw[k] for k in Config.__dataclass_fields__}))
    weights = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(weights)
    return model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json"))


def calls_in(text):
    """The tool calls of an answer as (name, arguments), or None where there is something else."""
    calls = []
    for block in text.strip().split("<tool_call>")[1:]:
        try:
            call = json.loads(block.split("</tool_call>")[0])
            calls.append((call["name"], call["arguments"]))
        except (ValueError, KeyError, TypeError):
            return None
    return calls


def right(sample, text):
    if text is None:
        return False
    if sample.thinking:
        thought, closed, text = text.partition("</think>\n\n")
        if not closed or not thought.startswith("<think>"):
            return False
    elif "<think>" in text:
        return False
    if sample.calls:
        return calls_in(text) == [(n, a) for n, a in sample.calls]
    if "<tool_call>" in text:
        return False
    if sample.group == "json":
        try:
            return json.loads(text) == json.loads(sample.answer)
        except ValueError:
            return False
    if sample.accept:
        return any(piece in text for piece in sample.accept)
    return text == sample.answer


def reply(model, tokenizer, text):
    stop = {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    ids = model.greedy(tokenizer.encode(text, add_special_tokens=False).ids, stop)
    return None if ids is None else tokenizer.decode(ids, skip_special_tokens=False)


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--per-group", type=int, default=150)
    options.add_argument("--show", action="store_true", help="print every wrong answer")
    options.add_argument("--seen", action="store_true", help="ask phrasings of the training set instead")
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    model, tokenizer = load()
    compiled = template(CHECKPOINT / "chat_template.jinja")
    figures, total = {}, Counter()
    for group, makers in GROUPS.items():
        rng = random.Random(f"evaluation {group}")
        good = thinking = good_thinking = 0
        for i in range(chosen.per_group):
            s = corpus.sample(rng, not chosen.seen, makers[i % len(makers)])
            text = reply(model, tokenizer, prompt(compiled, s))
            ok = right(s, text)
            good += ok
            if s.thinking:
                thinking, good_thinking = thinking + 1, good_thinking + ok
            if chosen.show and not ok:
                last = " / ".join(str(m["content"]) for m in s.messages)
                print(f"  [{group}] {last!r}\n      want {s.completion()!r}\n      got  {text!r}", flush=True)
        figures[group] = round(100 * good / chosen.per_group, 1)
        total.update(good=good, asked=chosen.per_group, thinking=thinking, good_thinking=good_thinking)
        print(f"{group:14} {good:4} of {chosen.per_group:4}   {figures[group]:5.1f} %", flush=True)
    figures["thinking on"] = round(100 * total["good_thinking"] / max(1, total["thinking"]), 1)
    figures["overall"] = round(100 * total["good"] / total["asked"], 1)
    print(f"{'overall':14} {total['good']:4} of {total['asked']:4}   {figures['overall']:5.1f} %   (thinking on: {figures['thinking on']} %)")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
