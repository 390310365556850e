// Run by each version of the OpenAI SDK for Node: prints what the SDK saw, one JSON line a case.
// Usage: node check_node.mjs FOLDER_WITH_NODE_MODULES BASE_URL API_KEY
import { createRequire } from "node:module";

const [folder, baseURL, apiKey] = process.argv.slice(2);
const { default: OpenAI } = createRequire(folder + "/")("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const prompt = "a red paper lantern";
const ask = (fields, options) => () => client.images.generate({ model: "gpt-image-2", prompt, ...fields }, options);

const cases = {
  minimal: ask({}),
  three: ask({ n: 3, size: "1024x1024", quality: "low" }),
  nulls: ask({ n: null, size: null, quality: null, output_compression: null }),
  url: ask({ model: "dall-e-3", response_format: "url" }),
  b64: ask({ model: "dall-e-3", response_format: "b64_json" }),
  "extra body": ask({ extra_body: { watermark: false, negative_prompt: "x" } }),
  "extra headers": ask({}, { headers: { "x-request-id": "mine-1" }, query: { "api-version": "1" }, timeout: 30000 }),
  "too many": ask({ n: 11 }),
  "no such model": ask({ model: "nothing" }),
  "wrong key": () => client.withOptions({ apiKey: "sk-wrong-key-0123456789" }).images.generate({ model: "gpt-image-2", prompt }),
  blocked: ask({ prompt: prompt + " [[fault:moderation]]" }),
  limited: ask({ prompt: prompt + " [[fault:rate-limited]]" }),
  failed: ask({ prompt: prompt + " [[fault:server-error]]" }),
};

for (const [name, call] of Object.entries(cases)) {
  let seen;
  try {
    const answer = await call();
    const first = answer.data[0];
    const raw = Buffer.from(first.b64_json ?? "", "base64");
    seen = {
      n: answer.data.length,
      png: raw.subarray(1, 4).toString() === "PNG",
      url: Boolean(first.url),
      usage: answer.usage?.total_tokens ?? null,
      size: answer.size ?? null,
      created: Number.isInteger(answer.created),
      request_id: Boolean(answer._request_id),
    };
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    const id = error.headers?.get ? error.headers.get("x-request-id") : error.headers?.["x-request-id"];
    seen = {
      error: error.constructor.name,
      status: error.status,
      code: error.code ?? null,
      param: error.param ?? null,
      type: error.type ?? null,
      request_id: Boolean(id) && (error.requestID ?? error.request_id) === id,
    };
  }
  console.log(JSON.stringify({ case: name, ...seen }));
}
const ids = [];
for await (const model of client.models.list()) ids.push(model.id);
ids.sort();
console.log(JSON.stringify({ case: "models", ids, one: (await client.models.retrieve(ids[0])).id === ids[0] }));
const raw = await client.images.generate({ model: "gpt-image-2", prompt }).withResponse();
console.log(JSON.stringify({ case: "raw", status: raw.response.status, parsed: raw.data.data.length }));
