// Run by each version of the OpenAI SDK for Node: prints what it saw of each stream, one JSON line a case.
// Usage: node check_stream_node.mjs FOLDER_WITH_NODE_MODULES BASE_URL API_KEY CASES, where CASES is JSON: the fields of
// each stream by its name.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";

const [folder, baseURL, apiKey, cases] = process.argv.slice(2);
const { default: OpenAI } = createRequire(folder + "/")("openai");
const client = new OpenAI({ baseURL, apiKey });

const told = (event) => {
  const picture = Buffer.from(event.b64_json, "base64");
  return {
    ...event,
    b64_json: createHash("sha256").update(picture).digest("hex"),
    jpeg: picture.subarray(0, 3).toString("hex") === "ffd8ff",
    tokens: event.usage?.total_tokens ?? null,
  };
};

for (const [name, fields] of Object.entries(JSON.parse(cases))) {
  const seen = { case: name, events: [] };
  try {
    const asked = { model: "gpt-image-2", ...fields, stream: true };
    const answer = client.images.generate(asked, { headers: { "x-case": name } });
    const { data: stream, request_id } = await answer.withResponse();
    seen.request_id = Boolean(request_id);
    for await (const event of stream) seen.events.push(told(event));
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    const { status = null, code = null, param = null, type = null } = error;
    Object.assign(seen, { error: error.constructor.name, status, code, param, type });
    if (status) {
      const id = error.headers?.get ? error.headers.get("x-request-id") : error.headers?.["x-request-id"];
      seen.request_id = Boolean(id) && (error.requestID ?? error.request_id) === id;
    }
  }
  console.log(JSON.stringify(seen));
}
