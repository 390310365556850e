// Run by each version of the OpenAI SDK for Node: prints what it saw, one JSON line a row.
// Usage: node stream_node.mjs FOLDER_WITH_NODE_MODULES BASE_URL STREAMS, where STREAMS says of each row whether a
// stream is asked for.
import { createRequire } from "node:module";

const [folder, url, streams] = process.argv.slice(2);
const { default: OpenAI } = createRequire(folder + "/")("openai");
const ask = { model: "gpt-image-2", prompt: "a red paper lantern" };

for (const [row, stream] of JSON.parse(streams).entries()) {
  const client = new OpenAI({ baseURL: `${url}/${row}`, apiKey: "none", maxRetries: 0 });
  const seen = { case: `${row}`, events: [], error: null, fault: null };
  try {
    const answer = await client.images.generate({ ...ask, stream });
    if (stream) for await (const event of answer) seen.events.push(event);
    else seen.events.push(answer);
  } catch (error) {
    seen.error = error.constructor.name;
    if (error instanceof OpenAI.APIError) {
      const { type, param, code, status } = error;
      seen.fault = {
        message: status ? error.error.message : error.message,
        type: type ?? null,
        param: param ?? null,
        code: code ?? null,
        status: status ?? null,
      };
    }
  }
  console.log(JSON.stringify(seen));
}
