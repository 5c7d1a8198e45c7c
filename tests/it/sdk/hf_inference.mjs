// Hugging Face's JavaScript client against our server.
import assert from "node:assert";
import { InferenceClient } from "@huggingface/inference";

const client = new InferenceClient("unused", { endpointUrl: process.argv[2] });
const model = "candlewick/ember";
const messages = [{ role: "user", content: "What is the capital of France?" }];

const answer = await client.chatCompletion({ model, messages, temperature: 0, max_tokens: 64 });
assert.match(answer.choices[0].message.content, /Paris/);
let text = "";
for await (const chunk of client.chatCompletionStream({ model, messages, temperature: 0, max_tokens: 64 })) {
  text += chunk.choices[0]?.delta?.content ?? "";
}
assert.equal(text, answer.choices[0].message.content);
console.log("ok");
