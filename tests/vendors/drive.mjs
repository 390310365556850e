// Run by sdks.py: sends every case through one OpenAI client for Node, eight at a time, and prints one JSON line a case.
// Usage: node drive.mjs FOLDER_WITH_NODE_MODULES BASE_URL API_KEY, with the cases as a JSON list on standard input
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const AT_ONCE = 8;
const MAGIC = { png: "89504e47", jpeg: "ffd8ff", webp: "52494646", gif: "47494638" };

const [folder, baseURL, apiKey] = process.argv.slice(2);
const { default: OpenAI } = createRequire(folder + "/")("openai");
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

function shown(item) {
  if (typeof item.b64_json !== "string") return item;
  const bytes = Buffer.from(item.b64_json, "base64");
  const hex = bytes.subarray(0, 4).toString("hex");
  const kind = Object.keys(MAGIC).find((name) => hex.startsWith(MAGIC[name])) ?? null;
  return { ...item, b64_json: { kind, length: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") } };
}

async function seen(params) {
  const { extra_headers: headers, ...fields } = params;
  try {
    const { data, response } = await client.images.generate(fields, { headers }).withResponse();
    const answer = { ...data, data: data.data.map(shown) };
    delete answer._request_id;
    return { status: response.status, headers: Object.fromEntries(response.headers), answer };
  } catch (error) {
    if (!(error instanceof OpenAI.APIError) || !error.status) throw error;
    return { status: error.status, headers: Object.fromEntries(error.headers), error: error.error };
  }
}

const waiting = JSON.parse(readFileSync(0, "utf8"));
async function work() {
  for (let next = waiting.shift(); next; next = waiting.shift()) {
    console.log(JSON.stringify({ name: next.name, ...(await seen(next.params)) }));
  }
}
await Promise.all(Array.from({ length: AT_ONCE }, work));
