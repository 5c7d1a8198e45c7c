// The Vercel AI SDK: its OpenAI provider (responses and chat) and its provider for compatible servers.
import assert from "node:assert";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.argv[2] + "/v1";
const openai = createOpenAI({ baseURL, apiKey: "unused" });
const compatible = createOpenAICompatible({ name: "candlewick", baseURL, supportsStructuredOutputs: true });
const name = "candlewick/ember";
const prompt = "What is the capital of France?";
const once = { temperature: 0, maxRetries: 0 };

for (const model of [openai.chat(name), compatible(name), openai.responses(name)]) {
  const { text, finishReason, usage } = await generateText({ model, prompt, ...once });
  assert.match(text, /Paris/);
  assert.equal(finishReason, "stop");
  assert.ok(usage.outputTokens > 0);

  let streamed = "";
  const stream = streamText({ model, prompt, ...once, onError: ({ error }) => { throw error; } });
  for await (const piece of stream.textStream) streamed += piece;
  assert.equal(streamed, text);

  const called = await generateText({
    model, ...once, prompt: "What is the weather in Paris?", toolChoice: "required",
    tools: { get_weather: tool({ description: "The weather in a city.", inputSchema: z.object({ city: z.string().max(20) }) }) },
  });
  assert.equal(called.toolCalls[0].toolName, "get_weather");
  assert.equal(typeof called.toolCalls[0].input.city, "string");

  const shaped = await generateText({
    model, prompt, ...once,
    output: Output.object({ schema: z.object({ country: z.string().max(20), capital: z.string().max(20) }) }),
  });
  assert.equal(typeof shaped.output.capital, "string");
}
console.log("ok");
