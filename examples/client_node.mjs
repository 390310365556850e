// The official OpenAI SDK for Node, asking the gateway that runs in another terminal: writes sandbox.png. First: npm install openai
import { writeFile } from "node:fs/promises";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: process.env.AMUX_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.AMUX_KEY,
});
const answer = await client.images.generate({
  model: "gpt-image-2",
  prompt: "a red paper lantern over a canal at dusk",
  size: "1024x1024",
});
await writeFile("sandbox.png", Buffer.from(answer.data[0].b64_json, "base64"));
console.log("wrote sandbox.png,", answer.usage.total_tokens, "tokens");
