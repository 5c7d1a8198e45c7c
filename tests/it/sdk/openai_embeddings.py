"""The official Python client: embeddings as numbers and as base64, which it asks for by itself; errors."""

import math
import pathlib
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused", max_retries=0)
MODEL = str(pathlib.Path(__file__).resolve().parents[2] / "fixtures/encoders/bert_embed-small/checkpoint")
TEXTS = ["The cat sat on the mat.", "A dog barks."]

# The client asks for base64, and decodes it.
answer = client.embeddings.create(model=MODEL, input=TEXTS)
assert answer.object == "list" and answer.model == MODEL, answer
assert [one.index for one in answer.data] == [0, 1]
assert all(len(one.embedding) == 32 for one in answer.data)
assert abs(math.hypot(*answer.data[0].embedding) - 1) < 1e-5
assert answer.usage.prompt_tokens == answer.usage.total_tokens > 8

# The same as a list of numbers, to the last bit.
plain = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
for one, other in zip(answer.data, plain.data):
    assert all(abs(a - b) < 1e-7 for a, b in zip(one.embedding, other.embedding))

# One text alone.
alone = client.embeddings.create(model=MODEL, input=TEXTS[1])
assert alone.data[0].embedding == answer.data[1].embedding

# What this server adds.
cut = client.embeddings.create(model=MODEL, input="word " * 500, extra_body={"truncate_prompt_tokens": -1})
assert cut.usage.prompt_tokens == 64, cut.usage

for wrong, code in [
    (dict(model=MODEL, input="word " * 500), "context_length_exceeded"),
    (dict(model=MODEL, input=TEXTS, dimensions=8), "unsupported_operation"),
    (dict(model="candlewick/ember", input=TEXTS), "unsupported_operation"),
]:
    try:
        client.embeddings.create(**wrong)
    except openai.BadRequestError as error:
        assert error.code == code, error
    else:
        raise AssertionError(wrong)

print("ok")
