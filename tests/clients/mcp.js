// What tools for models speak: the line transport and the request layer of the official MCP SDK.
// Usage: node mcp.js COMMAND...; it fails by itself when something is not as it should.
//
// car-rpc is no MCP server and says so: the handshake of MCP is refused with a typed error. The
// layer below it is plain JSON-RPC in lines, and that has to work.

import assert from 'node:assert/strict';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { Protocol } from '@modelcontextprotocol/sdk/shared/protocol.js';
import { EmptyResultSchema, ResultSchema } from '@modelcontextprotocol/sdk/types.js';

const [command, ...args] = process.argv.slice(2);
const start = () => new StdioClientTransport({ command, args, env: process.env, stderr: 'inherit' });

/** MCP's requests and notifications without its handshake and its rules about capabilities. */
class Plain extends Protocol {
  assertCapabilityForMethod() {}
  assertNotificationCapability() {}
  assertRequestHandlerCapability() {}
  assertTaskCapability() {}
  assertTaskHandlerCapability() {}
}

const refused = await new Client({ name: 'test', version: '1' })
  .connect(start())
  .then(() => assert.fail('car-rpc is no MCP server'), (error) => error);
assert.equal(refused.code, -32602);
assert.equal(refused.data.kind, 'invalid_params');
assert.equal(refused.data.path, '$.protocol_version');

const client = new Plain();
client.onerror = (error) => assert.fail(error);
await client.connect(start());
const ask = (method, params = {}) => client.request({ method, params }, ResultSchema);

assert.ok(await client.request({ method: 'ping' }, EmptyResultSchema.passthrough()));
assert.equal((await ask('initialize', { protocol_version: 1 })).protocol_version, 1);

const events = [];
client.fallbackNotificationHandler = async ({ method, params }) => {
  assert.equal(method, 'generate.event');
  events.push(params);
};
client.fallbackRequestHandler = async ({ method, params }) => {
  assert.equal(method, 'runner.run');
  return { text: `The app was asked: ${params.request.prompt}` };
};
await ask('models.register', {
  model: { id: 't/app:1', source: { type: 'delegated' }, capabilities: ['generate'] },
});
await ask('runner.register');
const result = await ask('generate', { model: 't/app:1', prompt: '\u2028?', stream: true });
assert.equal(result.text, 'The app was asked: \u2028?');
assert.deepEqual(events.map((each) => each.seq), [...events.keys()]);
assert.equal(events.at(-1).event.type, 'done');

const error = await ask('models.get', { model: 'no/such:1' }).catch((each) => each);
assert.equal(error.data.kind, 'model_not_found');
await client.close();
console.log('MCP is as it should be');
