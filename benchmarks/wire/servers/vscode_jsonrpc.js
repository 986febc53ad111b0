// vscode-jsonrpc, the connection below every language server of VS Code.
const rpc = require("vscode-jsonrpc/node");

const connection = rpc.createMessageConnection(
  new rpc.StreamMessageReader(process.stdin),
  new rpc.StreamMessageWriter(process.stdout),
);
connection.onRequest("ping", () => ({}));
connection.onRequest("echo", (params) => params);
connection.onRequest("stream", async ({ count, text }, token) => {
  for (let seq = 0; seq < count && !token.isCancellationRequested; seq++) {
    const sent = connection.sendNotification("event", {
      request_id: 1,
      seq,
      event: { type: "text_delta", text },
    });
    // Waiting for each would be slower; waiting for none would queue them all in memory.
    if (seq % 64 === 63) await sent;
  }
  return {};
});
connection.onClose(() => process.exit(0));
connection.listen();
