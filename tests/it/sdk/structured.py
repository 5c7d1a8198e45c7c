"""The official Python client on structured output: parse with Pydantic, streamed and whole, tools, and vLLM's extras."""

import json
import re
import sys
from enum import Enum
from typing import List, Literal, Optional

import openai
from pydantic import BaseModel, Field

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="unused", max_retries=0)
MODEL = "candlewick/ember"
ASK = [{"role": "user", "content": "Tell me about Paris."}]


class Size(str, Enum):
    small = "small"
    large = "large"


class Place(BaseModel):
    country: Literal["France", "Italy"]
    size: Size


class City(BaseModel):
    name: str = Field(max_length=12)
    people: int = Field(ge=0, le=99_999_999)
    capital: bool
    place: Place
    tags: List[Literal["old", "new", "big"]] = Field(max_length=3)
    nickname: Optional[Literal["City of Light"]]


LIMITS = {"temperature": 0, "max_tokens": 600}

# parse: a Pydantic model in, an object of it out.
completion = client.chat.completions.parse(model=MODEL, messages=ASK, response_format=City, **LIMITS)
city = completion.choices[0].message.parsed
assert isinstance(city, City) and isinstance(city.place.size, Size), completion
assert completion.choices[0].finish_reason == "stop"

# The helper that streams, and parses in the end.
with client.chat.completions.stream(model=MODEL, messages=ASK, response_format=City, **LIMITS) as stream:
    kinds = {event.type for event in stream}
    final = stream.get_final_completion()
assert "content.delta" in kinds and "content.done" in kinds, kinds
assert final.choices[0].message.parsed == city, (final, city)

# Seeded, at a high temperature, several choices: each one keeps to the schema.
many = client.chat.completions.parse(
    model=MODEL, messages=ASK, response_format=City, temperature=1.5, seed=3, n=4, max_tokens=900
)
assert all(isinstance(choice.message.parsed, City) for choice in many.choices), many

# Any JSON object; and where the limit cuts it, that is said.
anything = client.chat.completions.create(
    model=MODEL, messages=ASK, response_format={"type": "json_object"}, temperature=0, max_tokens=4
)
assert anything.choices[0].message.content.startswith("{")
try:
    client.chat.completions.parse(model=MODEL, messages=ASK, response_format=City, temperature=0, max_tokens=4)
    raise SystemExit("an answer that is cut cannot be parsed")
except openai.LengthFinishReasonError:
    pass


# Tools by Pydantic: forced, required, and named.
class GetWeather(BaseModel):
    city: str = Field(max_length=12)
    unit: Literal["celsius", "fahrenheit"]


class GetTime(BaseModel):
    zone: Literal["UTC", "CET"]


tools = [openai.pydantic_function_tool(GetWeather), openai.pydantic_function_tool(GetTime)]
required = client.chat.completions.parse(
    model=MODEL, messages=ASK, tools=tools, tool_choice="required", parallel_tool_calls=False, **LIMITS
)
assert required.choices[0].finish_reason == "tool_calls", required
assert isinstance(required.choices[0].message.tool_calls[0].function.parsed_arguments, (GetWeather, GetTime))
named = client.chat.completions.parse(
    model=MODEL,
    messages=ASK,
    tools=tools,
    tool_choice={"type": "function", "function": {"name": "GetTime"}},
    **LIMITS,
)
assert named.choices[0].finish_reason == "stop", named
assert isinstance(named.choices[0].message.tool_calls[0].function.parsed_arguments, GetTime)
auto = client.chat.completions.parse(
    model=MODEL,
    messages=[{"role": "user", "content": "What is the weather in Lisbon?"}],
    tools=tools,
    **LIMITS,
)
for call in auto.choices[0].message.tool_calls or []:
    assert isinstance(call.function.parsed_arguments, (GetWeather, GetTime)), auto

# Forms that OpenAI does not have.
def extra(**body):
    answer = client.chat.completions.create(model=MODEL, messages=ASK, extra_body=body, **LIMITS)
    return answer.choices[0].message.content


assert extra(structured_outputs={"choice": ["yes", "no"]}) in ("yes", "no")
assert re.fullmatch(r"[A-Z]{3}-\d{2}", extra(guided_regex=r"[A-Z]{3}-\d{2}"))
assert re.fullmatch(r"(ab){1,3}!", extra(structured_outputs={"grammar": 'root ::= "ab"{1,3} "!"'}))
done = client.completions.create(
    model=MODEL, prompt="Is it?", extra_body={"guided_choice": ["yes", "no"]}, temperature=0, max_tokens=20
)
assert done.choices[0].text in ("yes", "no") and done.choices[0].finish_reason == "stop", done

# The responses API parses as chat does.
class Town(BaseModel):
    name: str = Field(max_length=20)


parsed = client.responses.parse(
    model=MODEL, input="What is the capital of France?", text_format=Town, temperature=0
)
assert isinstance(parsed.output_parsed, Town) and parsed.status == "completed", parsed

# What cannot be guaranteed is refused, and the keyword named.
bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
try:
    client.chat.completions.create(model=MODEL, messages=ASK, response_format=bad)
    raise SystemExit("a keyword that is not kept to must be refused")
except openai.BadRequestError as error:
    assert error.param == "response_format.json_schema.schema.uniqueItems" and "uniqueItems" in str(error), error

json.loads(completion.choices[0].message.content)
print("ok")
