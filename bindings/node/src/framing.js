/** Messages as lines of bytes. Pure: bytes in, lines out, whatever the chunks. */

const LINE_FEED = 0x0a;
const BYTE_ORDER_MARK = /^\ufeff/;

/** How much of a line that is too long is kept to tell what it was, in bytes. */
const PREFIX_BYTES = 1024;

/**
 * @typedef {object} Line
 * @property {string} text The line without its end; of a line that is too long its beginning.
 * @property {boolean} tooLong Whether it was longer than allowed, and dropped.
 */

/**
 * A message as it goes on the wire.
 *
 * Lone surrogates, which are no text and which the core refuses, become U+FFFD, as they do in
 * every encoder of the Web.
 *
 * @param {object} message
 * @throws {TypeError} It holds what JSON cannot say, such as a BigInt or a cycle.
 */
export function encode(message) {
  const text = JSON.stringify(message);
  // JSON.stringify escapes surrogates only where they are lone.
  return `${text.includes('\\ud') ? text.replace(/\\(?:u(d[89a-f]..)|.)/g, replaceLone) : text}\n`;
}

/**
 * @param {string} escape
 * @param {string | undefined} surrogate
 */
function replaceLone(escape, surrogate) {
  return surrogate ? '\\ufffd' : escape;
}

/** Splits a byte stream at line feeds, and at nothing else. Blank lines are skipped. */
export class LineSplitter {
  /** @type {Uint8Array[]} Pieces of the line that has not ended. */
  #pieces = [];
  #length = 0;
  #atStart = true;
  #maxBytes;

  /** @param {number} maxBytes Longest line, in bytes. */
  constructor(maxBytes) {
    this.#maxBytes = maxBytes;
  }

  /**
   * The next bytes of the stream.
   *
   * @param {Uint8Array} chunk
   * @returns {Line[]} The lines that end in them.
   */
  receive(chunk) {
    const lines = [];
    let start = 0;
    for (let end; (end = chunk.indexOf(LINE_FEED, start)) >= 0; start = end + 1) {
      this.#add(chunk.subarray(start, end));
      lines.push(this.#takeLine());
    }
    this.#add(chunk.subarray(start));
    return lines.filter((line) => line.text.trim() !== '');
  }

  /**
   * The stream ended.
   *
   * @returns {Line[]} The last line, when it lacked its line feed.
   */
  receiveEnd() {
    return [this.#takeLine()].filter((line) => line.text.trim() !== '');
  }

  /** @param {Uint8Array} piece */
  #add(piece) {
    // Beyond the limit only the beginning is kept.
    if (piece.length > 0 && this.#length <= this.#maxBytes) this.#pieces.push(piece);
    this.#length += piece.length;
  }

  #takeLine() {
    let line = Buffer.concat(this.#pieces);
    // A carriage return belongs to the line's end.
    const length = this.#length - (line[this.#length - 1] === 0x0d ? 1 : 0);
    const tooLong = length > this.#maxBytes;
    line = line.subarray(0, tooLong ? Math.min(PREFIX_BYTES, this.#maxBytes) : length);
    this.#pieces = [];
    this.#length = 0;
    const text = line.toString('utf8');
    const first = this.#atStart;
    this.#atStart = false;
    return { text: first ? text.replace(BYTE_ORDER_MARK, '') : text, tooLong };
  }
}
