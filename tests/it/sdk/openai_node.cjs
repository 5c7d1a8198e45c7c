// The official Node client: chat, streams, an abort, errors.
const assert = require("node:assert");
const OpenAI = require("openai").default ?? require("openai");

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "unused", maxRetries: 0 });
const model = "candlewick/ember";
const messages = [{ role: "user", content: "What is the capital of France?" }];

async function main() {
  const answer = await client.chat.completions.create({ model, messages, temperature: 0 });
  assert.match(answer.choices[0].message.content, /Paris/);

  let text = "";
  const stream = await client.chat.completions.create({ model, messages, temperature: 0, stream: true });
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  assert.equal(text, answer.choices[0].message.content);

  const runner = client.chat.completions.stream({ model, messages, temperature: 0 });
  assert.equal(await runner.finalContent(), text);

  const left = await client.chat.completions.create({
    model, messages: [{ role: "user", content: "Tell me a story" }], temperature: 0, stream: true,
  });
  for await (const _ of left) { left.controller.abort(); break; }

  const models = await client.models.list();
  assert.ok(models.data.some((card) => card.id === model));
  await assert.rejects(
    client.chat.completions.create({ model: "nobody/nothing", messages }),
    (error) => error.status === 404 && error.code === "model_not_found",
  );
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
