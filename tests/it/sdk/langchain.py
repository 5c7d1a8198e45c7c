"""LangChain's OpenAI provider: invoke, stream, batch, tools, structured output, the responses API."""

import sys

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

chat = ChatOpenAI(
    base_url=sys.argv[1] + "/v1", api_key="unused", model="candlewick/ember", temperature=0, max_retries=0
)
QUESTION = "What is the capital of France?"

answer = chat.invoke(QUESTION)
assert "Paris" in answer.content, answer
assert answer.response_metadata["finish_reason"] == "stop", answer.response_metadata
assert answer.usage_metadata["output_tokens"] > 0, answer.usage_metadata
assert "".join(chunk.content for chunk in chat.stream(QUESTION)) == answer.content

history = [SystemMessage("You are helpful."), HumanMessage(QUESTION), AIMessage(answer.content)]
assert chat.invoke([*history, HumanMessage("How many people live there?")]).content
assert [one.content for one in chat.batch([QUESTION, QUESTION])] == [answer.content] * 2


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


# A call that is asked for comes, and its result can be sent back.
armed = chat.bind_tools([get_weather], tool_choice="get_weather")
call = armed.invoke("What is the weather in Paris?")
assert call.tool_calls[0]["name"] == "get_weather", call
assert isinstance(call.tool_calls[0]["args"]["city"], str), call
told = [HumanMessage("What is the weather in Paris?"), call]
told += [ToolMessage(get_weather.invoke(one["args"]), tool_call_id=one["id"]) for one in call.tool_calls]
assert chat.bind_tools([get_weather]).invoke(told).content
merged = None
for chunk in armed.stream("What is the weather in Paris?"):
    merged = chunk if merged is None else merged + chunk
assert merged.tool_calls[0]["args"] == call.tool_calls[0]["args"], merged


class Capital(BaseModel):
    """A country and its capital."""

    country: str = Field(max_length=20)
    capital: str = Field(max_length=20)


for method in ("json_schema", "function_calling"):
    found = chat.with_structured_output(Capital, method=method).invoke(QUESTION)
    assert isinstance(found, Capital), found

responses = ChatOpenAI(
    base_url=sys.argv[1] + "/v1", api_key="unused", model="candlewick/ember", temperature=0, max_retries=0,
    use_responses_api=True,
)
assert "Paris" in responses.invoke(QUESTION).text, responses.invoke(QUESTION)
assert "Paris" in "".join(chunk.text for chunk in responses.stream(QUESTION))
print("ok")
