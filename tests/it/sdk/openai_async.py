"""The official Python client, asynchronous: many streams at once, some of them left early."""

import asyncio
import sys

import openai

MODEL = "candlewick/ember"
QUESTIONS = ["What is the capital of France?", "Who are you?", "Tell me a story", "What is two plus two?"]


async def main() -> None:
    client = openai.AsyncOpenAI(base_url=sys.argv[1] + "/v1", api_key="unused", max_retries=0)

    async def ask(question: str, leave_after: int | None = None) -> str:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}], temperature=0, stream=True
        )
        text, pieces = "", 0
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            pieces += 1
            if leave_after is not None and pieces > leave_after:
                await stream.close()
                break
        return text

    alone = [await ask(question) for question in QUESTIONS]
    jobs = [ask(QUESTIONS[i % 4], leave_after=3 if i % 3 == 0 else None) for i in range(16)]
    for i, text in enumerate(await asyncio.gather(*jobs)):
        if i % 3 != 0:
            assert text == alone[i % 4], (text, alone[i % 4])


asyncio.run(main())
print("ok")
