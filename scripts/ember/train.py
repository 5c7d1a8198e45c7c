"""Trains `candlewick/ember` from nothing and writes a checkpoint that Hugging Face libraries load.

    python train.py                         # the whole thing, from seed 1
    python train.py --minutes 20            # the same, ending early on a slow or busy machine
    python train.py --state ember-state.pt  # can be stopped and started again with the same command

Everything is written to config/models/ember: weights in bf16, tokenizer, template and configs.
"""

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import corpus
from chat import CHECKPOINT, HERE, prompt, template
from drills import drill
from model import Config, Qwen3

# The space before a word is a token of its own, so that a word is the same tokens in a sentence and in JSON quotes, and
# copying it is copying tokens. Only the little words of every sentence keep their space: nobody asks for them back.
LITTLE = """a about after am an and another answer any are as asks at be been before bigger by call called can candlewick cannot capital come
comes continent could current degrees did do does example first for from functions get gets give had has have help helpful how i if
in into is it its know knows language largest like likes live lives make many may me meet million minutes model more much my need not
number of on one only opposite or people please population say serve server should show speak tell than thank that the their them then
there these they this to too toy understand up use uses want wants was weather welcome what when where which who will with works would
write you your"""
PIECES = r""" (?:%s)(?!\p{L})|\p{Lu}\p{Ll}*|\p{Ll}+|[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""" % "|".join(LITTLE.split())
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
END = "<|im_end|>"


def make_tokenizer(texts, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    marks = SPECIAL + MARKS
    trainer = trainers.BpeTrainer(vocab_size=size - len(marks), min_frequency=25, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    pieces = (part for text in texts for part in split_marks(text, marks))
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKS])
    return tokenizer


def split_marks(text, marks):
    for mark in marks:
        text = text.replace(mark, "\0")
    return text.split("\0")


LENGTHS = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512, 768, 1024]


def batches(tokenizer, compiled, rng, budget, first):
    """Batches of about `budget` tokens for ever, beginning as step `first`. Few shapes: the CPU kernels are compiled anew for each."""
    pad, start, end = (tokenizer.token_to_id(t) for t in SPECIAL)
    said = encode(tokenizer, "assistant\n")
    waiting, made = {length: [] for length in LENGTHS}, first
    while True:
        drills = max(0.08, 0.6 - 0.52 * made / 3000)
        samples = [drill(rng) if rng.random() < drills else corpus.sample(rng) for _ in range(1500)]
        heads = tokenizer.encode_batch([prompt(compiled, s) for s in samples], add_special_tokens=False)
        tails = tokenizer.encode_batch([s.completion() + END for s in samples], add_special_tokens=False)
        extras = [[(encode(tokenizer, later(s, m)), encode(tokenizer, m.completion() + END)) for m in s.more] for s in samples]
        ready = []
        for head, tail, extra in zip(heads, tails, extras):
            row = list(zip(head.ids, spoken(head.ids, said, start, end))) + [(i, 1) for i in tail.ids]
            for question, answer in extra:
                row += [(i, 0) for i in question] + [(i, 1) for i in answer]
            size = len(row)
            length = next((n for n in LENGTHS if n >= size), None)
            if length is None:
                continue
            rows = waiting[length]
            rows.append(row)
            if len(rows) == budget // length:
                ready.append((length, rows))
                waiting[length] = []
        rng.shuffle(ready)
        for length, rows in ready:
            ids = torch.full((len(rows), length), pad)
            weight = torch.zeros(len(rows), length)
            for i, row in enumerate(rows):
                ids[i, :len(row)] = torch.tensor([token for token, _ in row])
                weight[i, :len(row)] = torch.tensor([float(answer) for _, answer in row])
            yield ids, weight
        made += len(ready)


def spoken(ids, said, start, end):
    """Which tokens of a prompt the assistant said in earlier turns, and is to learn too. The first of each turn does not count:
    whether it opens a thought depends on the request, and the past does not show it."""
    marks, i = [0] * len(ids), 0
    while i < len(ids):
        if ids[i] == start and ids[i + 1:i + 1 + len(said)] == said and end in ids[i:]:
            begin, i = i + 2 + len(said), ids.index(end, i)
            marks[begin:i + 1] = [1] * (i + 1 - begin)
        i += 1
    return marks


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def later(sample, more):
    """A further question in the same conversation: training learns its answer too, so that a long list of tools is read once."""
    start = "" if sample.thinking else "<think>\n\n</think>\n\n"
    return f"\n<|im_start|>user\n{more.messages[0]['content']}<|im_end|>\n<|im_start|>assistant\n{start}"


def worker(rank, chosen):
    """One of the processes that train together: each reads its own text and steps alone; every few steps the weights are averaged.

    Two processes of one thread each do twice the work of one process with two threads, for the matrices are small,
    and on a busy machine they seldom wait for each other.
    """
    dist.init_process_group("gloo", init_method=f"file://{chosen.meeting}", rank=rank, world_size=chosen.processes)
    torch.set_num_threads(1)
    torch.manual_seed(chosen.seed)
    model, tokenizer = Qwen3(Config()), Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = (torch.optim.Muon(matrices, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
                  torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0))
    if shutil.which("g++"):  # fuses what is between the matrix products; half as fast again
        model.hidden = torch.compile(model.hidden, dynamic=True)
    first, slow = 0, [p.detach().clone() for p in model.parameters()]
    if chosen.state and chosen.state.exists():
        state = torch.load(chosen.state)
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(kept)
        first, slow = state["step"], state["slow"]
    text = random.Random(f"text {chosen.seed} {rank} {first}")
    source = batches(tokenizer, template(), text, chosen.tokens // chosen.processes, first)
    train(model, slow, optimizers, source, chosen, rank, first)


def train(model, slow, optimizers, source, chosen, rank, first):
    """`slow` follows the weights at a distance, which takes out the noise of single steps: it is what is written."""
    started = clock = time.time()
    seen, running, step = 0, None, first
    while True:
        if step % chosen.sync == 0:
            average([p.data for p in model.parameters()], chosen.processes)
            for kept, now in zip(slow, model.parameters()):
                kept.lerp_(now.detach(), max(0.06, chosen.sync / (step - first + chosen.sync)))
            spent = torch.tensor((time.time() - started) / 60)
            dist.broadcast(spent, 0)
            last = step >= chosen.steps or spent.item() >= chosen.minutes
            if rank == 0 and (last or step % 200 == 0):
                write_weights(model, slow)
                write_state(model, slow, optimizers, step, chosen)
            if last:
                break
        done = max(step / chosen.steps, spent.item() / chosen.minutes)
        rate = chosen.lr * min(1, (step + 1) / 60, (1 - done) / 0.6)
        for optimizer, scale in zip(optimizers, (1, 0.6)):
            optimizer.param_groups[0]["lr"] = scale * rate
        ids, weight = next(source)
        target, wanted = ids[:, 1:].reshape(-1), weight[:, 1:].reshape(-1)
        at = wanted.nonzero()[:, 0]
        at = F.pad(at, (0, -len(at) % 128))  # few shapes here too; the filling counts for nothing
        wanted = wanted[at] * (torch.arange(len(at)) < wanted.count_nonzero())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.hidden(ids[:, :-1])
            logits = model.logits(hidden.reshape(-1, hidden.shape[-1])[at])
        loss = (F.cross_entropy(logits.float(), target[at], reduction="none") * wanted).sum() / wanted.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        seen += ids.numel() * chosen.processes
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if rank == 0 and step % 50 == 0:
            now = time.time()
            print(f"step {step} loss {running:.4f} rate {rate:.5f} tokens {seen / 1e6:.2f} M, {50 / (now - clock):.2f} steps/s, {(now - started) / 60:.1f} min", flush=True)
            clock = now
    if rank == 0:
        print(f"{step} steps, {seen / 1e6:.1f} M tokens, {(time.time() - started) / 60:.1f} minutes", flush=True)


def write_state(model, slow, optimizers, step, chosen):
    if chosen.state:
        fresh = chosen.state.with_suffix(".new")
        torch.save({"step": step, "model": model.state_dict(), "slow": slow, "optimizers": [o.state_dict() for o in optimizers]}, fresh)
        fresh.replace(chosen.state)


def average(weights, count):
    flat = torch.cat([w.reshape(-1) for w in weights])
    dist.all_reduce(flat)
    flat /= count
    for w, part in zip(weights, flat.split([w.numel() for w in weights])):
        w.copy_(part.view_as(w))


def write_weights(model, slow):
    weights = {name: kept.to(torch.bfloat16).contiguous() for (name, _), kept in zip(model.named_parameters(), slow)}
    save_file(weights, CHECKPOINT / "model.safetensors", metadata={"format": "pt"})


def write_json(name, value):
    (CHECKPOINT / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_configs(tokenizer, config):
    end, text_end = tokenizer.token_to_id(END), tokenizer.token_to_id("<|endoftext|>")
    write_json("config.json", {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **vars(config),
        "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "tie_word_embeddings": True,
        "use_cache": True, "use_sliding_window": False, "sliding_window": None, "max_window_layers": config.num_hidden_layers, "rope_scaling": None,
        "bos_token_id": None, "eos_token_id": end, "pad_token_id": text_end, "torch_dtype": "bfloat16"})
    write_json("generation_config.json", {"do_sample": False, "eos_token_id": [end, text_end], "pad_token_id": text_end, "max_new_tokens": 512})
    write_json("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.max_position_embeddings, "bos_token": None, "eos_token": END,
        "pad_token": "<|endoftext|>", "unk_token": None, "add_bos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(tokenizer.token_to_id(t)): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                                                "single_word": False, "special": t in SPECIAL} for t in SPECIAL + MARKS},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    shutil.copyfile(HERE / "chat_template.jinja", CHECKPOINT / "chat_template.jinja")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--steps", type=int, default=12000)
    options.add_argument("--minutes", type=float, default=1e9, help="end earlier than --steps; the learning rate follows")
    options.add_argument("--tokens", type=int, default=2048, help="per step, all processes together")
    options.add_argument("--lr", type=float, default=5e-3)
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--sync", type=int, default=10, help="steps between two averages")
    options.add_argument("--state", type=Path, help="keep weights and optimizers in this file too, and go on from it if it is there")
    chosen = options.parse_args()
    if not (chosen.state and chosen.state.exists()):
        CHECKPOINT.mkdir(parents=True, exist_ok=True)
        compiled, config = template(), Config()
        rng = random.Random(f"tokenizer {chosen.seed}")
        drawn = [drill(rng) if rng.random() < 0.25 else corpus.sample(rng) for _ in range(12000)]
        tokenizer = make_tokenizer([prompt(compiled, s) + s.completion() for s in drawn], config.vocab_size)
        tokenizer.save(str(CHECKPOINT / "tokenizer.json"))
        write_configs(tokenizer, config)
    print(f"{sum(p.numel() for p in Qwen3(Config()).parameters()):,} parameters", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        chosen.meeting = f"{folder}/meeting"  # the file by which the processes find each other
        processes.spawn(worker, (chosen,), chosen.processes)


if __name__ == "__main__":
    main()
