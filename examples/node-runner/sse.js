/** Server-sent events, as the HTML standard defines them, as far as APIs of models use them. */

/**
 * The data of each event.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string, void, undefined>}
 */
export async function* dataOf(body) {
  let rest = '';
  /** @type {string[]} */
  let data = [];
  const decoder = new TextDecoder();
  for await (const chunk of body) {
    // A line may end with CRLF, LF or CR, and a chunk in the middle of each.
    const lines = (rest + decoder.decode(chunk, { stream: true })).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line.startsWith('data:')) data.push(line.slice(5).replace(/^ /, ''));
      else if (line === '' && data.length > 0) {
        yield data.join('\n');
        data = [];
      }
    }
  }
}
