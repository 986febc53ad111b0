/** A connection without a process. */

import { Connection } from '../../src/connection.js';

/** What a connection writes to. */
class RecordedOutput {
  /** @type {string[]} */
  lines = [];
  /** @type {any[]} The messages. */
  sent = [];
  full = false;
  wanted = true;

  /** @param {string} line */
  write(line) {
    this.lines.push(line);
    this.sent.push(JSON.parse(line));
  }

  isFull() {
    return this.full;
  }

  /** @param {boolean} wanted */
  wantInput(wanted) {
    this.wanted = wanted;
  }
}

/** @param {{ maxMessageBytes?: number }} [options] */
export function makeConnection({ maxMessageBytes = 1_000_000 } = {}) {
  const output = new RecordedOutput();
  /** @type {[number | string, string, any][]} */
  const requests = [];
  /** @type {[string, any][]} */
  const notifications = [];
  /** @type {string[]} */
  const problems = [];
  const connection = new Connection(
    output,
    {
      onRequest: (id, method, params) => requests.push([id, method, params]),
      onNotification: (method, params) => notifications.push([method, params]),
      onProblem: (message) => problems.push(message),
    },
    maxMessageBytes,
  );
  const receiveText = (/** @type {string} */ text) => connection.receive(Buffer.from(text));
  return {
    connection,
    output,
    sent: output.sent,
    requests,
    notifications,
    problems,
    receiveText,
    /** @param {object[]} messages */
    receive: (...messages) =>
      receiveText(
        messages.map((message) => `${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`).join(''),
      ),
  };
}
