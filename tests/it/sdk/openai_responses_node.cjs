// The official Node client on the Responses API: create, stream, go on, background, delete.

const assert = require("node:assert/strict");
const OpenAI = require("openai").default;

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "unused", maxRetries: 0 });
const model = "candlewick/ember";
const input = "What is the capital of France?";

async function main() {
  const response = await client.responses.create({ model, input, temperature: 0 });
  assert.equal(response.status, "completed");
  assert.match(response.output_text, /Paris/);

  const stream = await client.responses.create({ model, input, temperature: 0, stream: true });
  let text = "";
  let last;
  let next = 0;
  for await (const event of stream) {
    assert.equal(event.sequence_number, next++);
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  assert.equal(last.type, "response.completed");
  assert.equal(text, response.output_text);

  const runner = client.responses.stream({ model, input, temperature: 0 });
  const final = await runner.finalResponse();
  assert.equal(final.output_text, text);

  const second = await client.responses.create({
    model, input: "How many people live there?", previous_response_id: response.id, temperature: 0,
  });
  assert.match(second.output_text, /million/);

  let background = await client.responses.create({ model, input, temperature: 0, background: true });
  while (["queued", "in_progress"].includes(background.status)) {
    background = await client.responses.retrieve(background.id);
  }
  assert.equal(background.output_text, text);

  const items = await client.responses.inputItems.list(response.id);
  assert.equal(items.data[0].content[0].text, input);
  await client.responses.delete(response.id);
  await assert.rejects(client.responses.retrieve(response.id), (error) => error.status === 404);
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
