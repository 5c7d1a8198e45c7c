"""The official Python client, blocking: chat, streams, raw responses, completions, models, errors."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused", max_retries=0)
MODEL = "candlewick/ember"
HELLO = [{"role": "user", "content": "What is the capital of France?"}]

# A plain answer.
answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0)
assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-"), answer
assert answer.choices[0].message.role == "assistant"
assert "Paris" in answer.choices[0].message.content, answer
assert answer.choices[0].finish_reason == "stop"
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
assert isinstance(answer.created, int) and answer.model == MODEL

# The same, streamed: same text, same usage, one finish reason.
stream = client.chat.completions.create(
    model=MODEL, messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
)
text, reasons, usage, roles = "", [], None, []
for chunk in stream:
    assert chunk.object == "chat.completion.chunk"
    if chunk.usage:
        assert chunk.choices == []
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        if choice.delta.role:
            roles.append(choice.delta.role)
        if choice.finish_reason:
            reasons.append(choice.finish_reason)
assert text == answer.choices[0].message.content, (text, answer)
assert reasons == ["stop"] and roles == ["assistant"]
assert usage.completion_tokens == answer.usage.completion_tokens

# A follow-up that needs the first turn.
second = client.chat.completions.create(
    model=MODEL,
    temperature=0,
    messages=HELLO
    + [
        {"role": "assistant", "content": text},
        {"role": "user", "content": "How many people live there?"},
    ],
)
assert "million" in second.choices[0].message.content, second

# The stream helper of the client.
with client.chat.completions.stream(model=MODEL, messages=HELLO, temperature=0) as events:
    for _ in events:
        pass
    assert events.get_final_completion().choices[0].message.content == text

# Headers.
raw = client.chat.completions.with_raw_response.create(
    model=MODEL, messages=HELLO, max_tokens=1, extra_headers={"X-Request-Id": "client-7"}
)
assert raw.headers["x-request-id"] == "client-7"
assert raw.parse().id == "chatcmpl-client-7"
assert raw.parse().choices[0].finish_reason == "length"

# Several choices, seeded: repeatable, and not all alike at a high temperature.
many = [
    client.chat.completions.create(model=MODEL, messages=HELLO, n=3, temperature=2.0, seed=11, max_tokens=12)
    for _ in range(2)
]
texts = [[choice.message.content for choice in one.choices] for one in many]
assert texts[0] == texts[1] and len(set(texts[0])) > 1, texts
assert [choice.index for choice in many[0].choices] == [0, 1, 2]

# Log-probabilities.
scored = client.chat.completions.create(
    model=MODEL, messages=HELLO, temperature=0, logprobs=True, top_logprobs=3, max_tokens=4
)
entries = scored.choices[0].logprobs.content
assert len(entries) == 4 and all(len(entry.top_logprobs) == 3 for entry in entries)
assert all(entry.token == entry.top_logprobs[0].token and entry.logprob <= 0 for entry in entries)

# Stop strings are not part of the text.
stopped = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, stop=["Paris"])
assert "Paris" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"

# Tools: called when given and needed.
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ask = [{"role": "user", "content": "What is the weather in Lisbon?"}]
call = client.chat.completions.create(model=MODEL, messages=ask, tools=[WEATHER], temperature=0)
assert call.choices[0].finish_reason == "tool_calls", call
function = call.choices[0].message.tool_calls[0]
assert function.function.name == "get_weather" and json.loads(function.function.arguments) == {"city": "Lisbon"}
final = client.chat.completions.create(
    model=MODEL,
    temperature=0,
    tools=[WEATHER],
    messages=ask
    + [call.choices[0].message, {"role": "tool", "tool_call_id": function.id, "content": '{"temperature": 21}'}],
)
assert final.choices[0].finish_reason == "stop" and "21" in final.choices[0].message.content, final

# Text completions.
done = client.completions.create(model=MODEL, prompt="Hello", max_tokens=5, temperature=0, echo=True, logprobs=2)
assert done.object == "text_completion" and done.choices[0].text.startswith("Hello")
assert len(done.choices[0].logprobs.tokens) == done.usage.total_tokens
both = client.completions.create(model=MODEL, prompt=["Hello", "Good"], max_tokens=3, temperature=0)
assert [choice.index for choice in both.choices] == [0, 1]

# Models.
assert MODEL in [model.id for model in client.models.list()]
assert client.models.retrieve(MODEL).id == MODEL

# Errors are the client's own classes, and say which field.
try:
    client.chat.completions.create(model="nobody/nothing", messages=HELLO)
    raise SystemExit("an unknown model must be refused")
except openai.NotFoundError as error:
    assert error.code == "model_not_found" and error.param == "model", error
try:
    client.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)
    raise SystemExit("a temperature of 9 must be refused")
except openai.BadRequestError as error:
    assert error.param == "temperature", error
try:
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi " * 9000}])
    raise SystemExit("a prompt longer than the context must be refused")
except openai.BadRequestError as error:
    assert error.code == "context_length_exceeded", error
print("ok")
