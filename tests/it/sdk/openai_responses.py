"""The official Python client on the Responses API: create, stream, go on, background, cancel, list, delete."""

import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused", max_retries=0)
MODEL = "candlewick/ember"
QUESTION = "What is the capital of France?"

# A plain answer.
response = client.responses.create(model=MODEL, input=QUESTION, temperature=0, metadata={"a": "b"})
assert response.object == "response" and response.id.startswith("resp_"), response
assert response.status == "completed" and response.error is None, response
assert "Paris" in response.output_text, response
assert response.output[0].type == "message" and response.output[0].role == "assistant"
assert response.metadata == {"a": "b"} and response.store is True
assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens

# The same, as events.
stream = client.responses.create(model=MODEL, input=QUESTION, temperature=0, stream=True)
events = list(stream)
assert [event.sequence_number for event in events] == list(range(len(events)))
assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
assert events[-1].type == "response.completed"
text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
assert text == response.output_text == events[-1].response.output_text

# The stream helper of the client.
with client.responses.stream(model=MODEL, input=QUESTION, temperature=0) as helper:
    for event in helper:
        pass
    final = helper.get_final_response()
assert final.output_text == text, final

# Go on from it, find it again, list its input.
second = client.responses.create(
    model=MODEL, input="How many people live there?", previous_response_id=response.id, temperature=0
)
assert "million" in second.output_text, second
assert client.responses.retrieve(response.id).output_text == text
items = client.responses.input_items.list(response.id)
assert [item.content[0].text for item in items.data] == [QUESTION], items

# A history of the client's own, with what it was given before.
history = [{"role": "user", "content": QUESTION}]
history += [item.to_dict() for item in response.output]
history += [{"role": "user", "content": "How many people live there?"}]
third = client.responses.create(model=MODEL, input=history, store=False, temperature=0)
assert "million" in third.output_text, third

# Tools.
tool = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather in a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
asked = client.responses.create(
    model=MODEL, input="What is the weather in Lisbon?", tools=[tool], temperature=0
)
calls = [item for item in asked.output if item.type == "function_call"]
assert len(calls) == 1 and calls[0].name == "get_weather" and "Lisbon" in calls[0].arguments, asked
told = client.responses.create(
    model=MODEL,
    previous_response_id=asked.id,
    input=[{"type": "function_call_output", "call_id": calls[0].call_id, "output": '{"temperature": 21}'}],
    tools=[tool],
    temperature=0,
)
assert told.status == "completed" and "21" in told.output_text, told

# Log-probabilities.
with_logprobs = client.responses.create(
    model=MODEL,
    input=QUESTION,
    temperature=0,
    include=["message.output_text.logprobs"],
    top_logprobs=2,
)
logprobs = with_logprobs.output[0].content[0].logprobs
assert logprobs and len(logprobs[0].top_logprobs) == 2, with_logprobs

# Cut by its limit.
cut = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=2, temperature=0)
assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens", cut

# In the background.
queued = client.responses.create(model=MODEL, input=QUESTION, background=True, temperature=0)
assert queued.status in ("queued", "in_progress"), queued
while queued.status in ("queued", "in_progress"):
    time.sleep(0.02)
    queued = client.responses.retrieve(queued.id)
assert queued.output_text == text, queued
rest = list(client.responses.retrieve(queued.id, stream=True, starting_after=2))
assert rest[0].sequence_number == 3 and rest[-1].type == "response.completed"

endless = client.responses.create(
    model=MODEL, input="Hello!", background=True, extra_body={"ignore_eos": True}, max_output_tokens=1500
)
cancelled = client.responses.cancel(endless.id)
assert cancelled.status in ("cancelled", "incomplete"), cancelled
try:
    client.responses.cancel(response.id)
    raise AssertionError("a response in the foreground cannot be cancelled")
except openai.BadRequestError as error:
    assert "synchronous" in str(error)

# Deleted, and gone.
client.responses.delete(response.id)
try:
    client.responses.retrieve(response.id)
    raise AssertionError("it was deleted")
except openai.NotFoundError as error:
    assert error.code == "not_found"
try:
    client.responses.create(model=MODEL, input="x", conversation="conv_1")
    raise AssertionError("there are no conversations")
except openai.BadRequestError as error:
    assert error.param == "conversation"

print("ok")
