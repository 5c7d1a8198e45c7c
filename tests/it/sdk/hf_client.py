"""`huggingface_hub.InferenceClient` against our server."""

import sys

from huggingface_hub import InferenceClient

client = InferenceClient(base_url=sys.argv[1], api_key="unused")
messages = [{"role": "user", "content": "What is the capital of France?"}]
answer = client.chat_completion(messages, model="candlewick/ember", temperature=0.0, max_tokens=64)
assert "Paris" in answer.choices[0].message.content, answer
text = ""
for chunk in client.chat_completion(messages, model="candlewick/ember", temperature=0.0, max_tokens=64, stream=True):
    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
assert text == answer.choices[0].message.content
same = client.chat.completions.create(model="candlewick/ember", messages=messages, temperature=0.0)
assert same.choices[0].message.content == text
print("ok")
