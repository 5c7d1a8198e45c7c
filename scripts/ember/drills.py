"""Drills: conversations that are nearly all copying.

A model this small learns to copy a name it has never seen only if most of what it reads rewards it. Each drill is therefore
several short turns in one conversation, and nearly every piece of its answers stands somewhere before it: repeat this,
write these pairs as JSON, call this tool for that city, tell me what I told you. Training begins with many drills and
goes on with few; the evaluation asks none.
"""

import json

from corpus import (ADJECTIVES, FAMILIES, KEYS, NOUNS, TARGETS, VERBS, Sample, assistant, city, made_up, offer, person, phrase,
                    sentence, split, user)
from facts import DAYS

CLOSED = {"on", "off", "celsius", "fahrenheit", *DAYS, *TARGETS}  # a schema names these: no other value fits
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def word(rng):
    """Anything a person may want to see again."""
    roll = rng.random()
    if roll < 0.35:
        return made_up(rng)
    if roll < 0.55:
        return made_up(rng).lower()
    if roll < 0.65:
        return city(rng)
    if roll < 0.72:
        return person(rng)
    if roll < 0.80:
        return rng.choice(rng.choice([NOUNS, ADJECTIVES, VERBS]))
    if roll < 0.88:
        return str(rng.randint(0, 10 ** rng.randint(1, 5)))
    if roll < 0.93:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 8)))
    if roll < 0.97:
        return letters(rng)
    return f"{made_up(rng).lower()}@{made_up(rng).lower()}.{rng.choice(['com', 'org', 'net'])}"


def letters(rng):
    return "".join(rng.choice(LETTERS.upper()) for _ in range(rng.randint(2, 5)))


def words(rng, most=6):
    return " ".join(word(rng) for _ in range(rng.randint(1, most)))


def turn(group, ask, answer="", **rest):
    return Sample(group, [user(ask)], answer, "I copy this.", **rest)


def together(turns):
    """The first sample, with the others as further turns of its conversation."""
    turns[0].more = turns[1:]
    return turns[0]


REPEAT = ["Repeat after me: {}", "Say: {}", "Repeat: {}", "Repeat this: {}", 'Say "{}"', "Please repeat: {}", 'Repeat "{}"', "{}\nRepeat this.",
          "Write: {}", "repeat after me: {}", "say {}", "Copy this: {}", "Repeat the words: {}", "Say this: {}",
          "Write exactly: {}", "Answer with: {}", "Reply with exactly: {}", "Say these words: {}", "Now say: {}", "Print: {}", "Type this: {}"]


def repeat(rng):
    def one():
        text = rng.choice([words, words, words, lambda r: sentence(r), lambda r: phrase(r)])(rng)
        return turn("repeat", rng.choice(REPEAT).format(text), text)
    return together([one() for _ in range(rng.randint(1, 3))])


def pairs(rng):
    def one():
        n = rng.randint(1, 5)
        keys = [rng.choice(KEYS) if rng.random() < 0.6 else made_up(rng).lower() for _ in range(n)]
        value = {key: rng.randint(0, 9999) if rng.random() < 0.25 else word(rng) for key in keys}
        listed = ", ".join(f"{a} {b}" for a, b in value.items())
        named = " and ".join(value) if len(value) < 3 else ", ".join(list(value)[:-1]) + " and " + list(value)[-1]
        given = ", ".join(str(b) for b in value.values())
        ask = rng.choice([f"Write this as JSON: {listed}", f"{listed} as JSON", f"As JSON: {listed}", f"JSON with {named}: {given}",
                          f"Give me a JSON object with {named} for {given}", "JSON: " + ", ".join(f"{a} = {b}" for a, b in value.items()),
                          "Write as JSON: " + ", ".join(f"{a}: {b}" for a, b in value.items()), f"Make JSON with {named} for {given}."])
        value = {a: int(b) if isinstance(b, str) and b.isascii() and b.isdigit() else b for a, b in value.items()}
        return turn("json", ask, json.dumps(value, ensure_ascii=False))
    return together([one() for _ in range(rng.randint(1, 3))])


def again(rng, name, args, ask):
    """The same call for another value, where the value stands in the question once."""
    args = dict(args)
    for key, value in args.items():
        if isinstance(value, str) and len(value) > 1 and ask.count(value) == 1 and value not in name and value not in CLOSED:
            fresh = letters(rng) if value.isupper() else rng.choice([city, city, person, lambda r: word(r), lambda r: phrase(r)])(rng)
            if not fresh.isdigit():
                ask, args[key] = ask.replace(value, fresh), fresh
        elif isinstance(value, int) and ask.count(str(value)) == 1 and value > 9:
            fresh = rng.randint(10, 9999)
            ask, args[key] = ask.replace(str(value), str(fresh)), fresh
    return turn("tool calls", ask, calls=[(name, args)])


def calls(rng):
    """One or two tools, read once and called several times."""
    family = rng.choice(FAMILIES)
    name, tools, args, asks, others = offer(rng, False, family, 0 if rng.random() < 0.7 else 1, more=True)
    asks = split(asks, False)
    turns = [turn("tool calls", rng.choice(asks), calls=[(name, args)])]
    for _ in range(rng.randint(1, 3)):
        turns.append(again(rng, name, args, rng.choice(asks)))
    for other, other_args, other_asks in others:
        turns.append(again(rng, other, other_args, rng.choice(split(other_asks, False))))
    rng.shuffle(turns)
    turns[0].tools = tools
    for t in turns:
        t.thought = f"I call {t.calls[0][0]} for this."
    return together(turns)


def results(rng):
    """Calls and what they returned, read back in a sentence, several times in one conversation."""
    name, tools, args, asks, _ = offer(rng, False, rng.choice(FAMILIES), 0, more=True)
    messages = []
    for _ in range(rng.randint(1, 3)):
        ask = again(rng, name, args, rng.choice(split(asks, False)))
        call = {"type": "function", "function": {"name": name, "arguments": ask.calls[0][1]}}
        text = rng.choice([words, lambda r: sentence(r), lambda r: str(r.randint(0, 9999)), lambda r: phrase(r)])(rng)
        messages += [*ask.messages, {"role": "assistant", "content": "", "tool_calls": [call]},
                     {"role": "tool", "content": text if rng.random() < 0.5 else json.dumps({rng.choice(["result", "answer", "value", "text"]): text}, ensure_ascii=False)},
                     assistant(f"The result is: {text}.")]
    return Sample("tool results", messages[:-1], messages[-1]["content"], "I have the result now.", tools=tools)


RELATIONS = [("lives in", "Where does {} live?", city), ("is from", "Where is {} from?", city), ("likes", "What does {} like?", lambda r: phrase(r)),
             ("has a", "What does {} have?", lambda r: r.choice(NOUNS)), ("works with", "Who does {} work with?", person), ("is", "What is {}?", lambda r: r.choice(ADJECTIVES)),
             ("knows", "Who does {} know?", person), ("needs", "What does {} need?", word), ("plays", "What does {} play?", word)]


def lookup(rng):
    """Facts about people, then questions about some of them."""
    told, turns, seen = [], [], set()
    for _ in range(rng.randint(2, 5)):
        who, (verb, ask, kind) = person(rng), rng.choice(RELATIONS)
        if who in seen:
            continue
        seen.add(who)
        fact = f"{who} {verb} {kind(rng)}."
        told.append(fact)
        turns.append(turn("memory", ask.format(who), fact))
    rng.shuffle(turns)
    turns = turns[:3]
    start, ask = " ".join(told), turns[0].messages[0]["content"]
    if rng.random() < 0.5:
        turns[0].messages = [user(f"{start} {ask}")]
    else:
        turns[0].messages = [user(start), assistant("Good. What would you like to know?"), user(ask)]
    return together(turns)


DRILLS = [(repeat, 3), (pairs, 3), (calls, 4), (results, 2), (lookup, 2)]


def drill(rng):
    s = rng.choices([d for d, _ in DRILLS], [w for _, w in DRILLS])[0](rng)
    s.thinking = rng.random() < 0.06
    for m in s.more:
        m.thinking = s.thinking
    return s
