// The official Node client on structured output: zodResponseFormat and zodFunction, whole and streamed.

const assert = require("node:assert");
const OpenAI = require("openai").default;
const { zodResponseFormat, zodFunction } = require("openai/helpers/zod");
const { z } = require("zod");

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "unused", maxRetries: 0 });
const model = "candlewick/ember";
const messages = [{ role: "user", content: "Tell me about Paris." }];
const limits = { temperature: 0, max_tokens: 600 };

const City = z.object({
  name: z.enum(["Paris", "Rome"]),
  people: z.number().int().min(0).max(99999999),
  capital: z.boolean(),
  nickname: z.enum(["City of Light"]).nullable(),
  rivers: z.array(z.object({ name: z.enum(["Seine", "Tiber"]) })).max(2),
});

async function main() {
  const completion = await client.chat.completions.parse({
    model,
    messages,
    response_format: zodResponseFormat(City, "city"),
    ...limits,
  });
  const city = completion.choices[0].message.parsed;
  City.parse(city);
  assert.strictEqual(completion.choices[0].finish_reason, "stop");

  const stream = client.chat.completions.stream({
    model,
    messages,
    response_format: zodResponseFormat(City, "city"),
    ...limits,
  });
  const final = await stream.finalChatCompletion();
  assert.deepStrictEqual(final.choices[0].message.parsed, city);

  const called = await client.chat.completions.parse({
    model,
    messages,
    tools: [zodFunction({ name: "get_time", parameters: z.object({ zone: z.enum(["UTC", "CET"]) }) })],
    tool_choice: "required",
    parallel_tool_calls: false,
    ...limits,
  });
  const call = called.choices[0].message.tool_calls[0].function;
  assert.ok(["UTC", "CET"].includes(call.parsed_arguments.zone), JSON.stringify(called));
  assert.strictEqual(called.choices[0].finish_reason, "tool_calls");
  console.log("ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
