// The MCP TypeScript SDK with two tools, in its own idiom.
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { z } from "zod";

const server = new McpServer({ name: "benchmark", version: "1" });
const answer = (text) => ({ content: [{ type: "text", text }] });

server.registerTool("echo", { inputSchema: { text: z.string() } }, ({ text }) => answer(text));
server.registerTool(
  "stream",
  { inputSchema: { count: z.number(), text: z.string() } },
  async ({ count, text }, { sendNotification, _meta }) => {
    for (let seq = 0; seq < count; seq++) {
      const sent = sendNotification({
        method: "notifications/progress",
        params: { progressToken: _meta.progressToken, progress: seq, message: text },
      });
      // Waiting for each would be slower; waiting for none would queue them all in memory.
      if (seq % 64 === 63) await sent;
    }
    return answer("done");
  },
);
await server.connect(new StdioServerTransport());
