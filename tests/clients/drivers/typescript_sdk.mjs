// A host of a TypeScript SDK without a model, as python_sdk.py is one of the Python SDK. The package
// is named by SDK_PACKAGE.
import { parseArgs } from "node:util";

const sdk = process.env.SDK_PACKAGE;
const { Client } = await import(`${sdk}/client/index.js`);
const { StdioClientTransport } = await import(`${sdk}/client/stdio.js`);
const { StreamableHTTPClientTransport } = await import(`${sdk}/client/streamableHttp.js`);

async function ask(message) {
  const body = JSON.stringify(message);
  const answer = await fetch(`${process.env.MODEL_URL}/neutral`, { method: "POST", body });
  return (await answer.json()).call;
}

const { values } = parseArgs({ options: { url: { type: "string" } }, allowPositionals: true });
const headers = { Authorization: `Bearer ${process.env.FLUX_MCP_TOKEN}` };
const transport = values.url
  ? new StreamableHTTPClientTransport(new URL(values.url), { requestInit: { headers } })
  : new StdioClientTransport({ command: "flux-mcp", args: ["serve"], stderr: "ignore" });
const client = new Client({ name: "typescript-sdk", version: "1.0.0" });
await client.connect(transport);
const listed = (await client.listTools()).tools;
const tools = listed.map((tool) => ({
  name: tool.name,
  description: tool.description,
  input_schema: tool.inputSchema,
}));
let call = await ask({ tools });
while (call !== null) {
  let result;
  try {
    result = await client.callTool({ name: call.name, arguments: call.arguments });
  } catch (error) {
    result = { raised: `${error.name}: ${error.message}` };
  }
  call = await ask({ tools, call_id: call.id, result });
}
await client.close();
