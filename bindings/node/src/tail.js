/** The last bytes of a stream. */
export class Tail {
  /** @type {Buffer[]} */
  #chunks = [];
  #length = 0;
  #maxBytes;

  /** @param {number} maxBytes */
  constructor(maxBytes) {
    this.#maxBytes = maxBytes;
  }

  /** @param {Buffer} chunk */
  add(chunk) {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    for (let first; (first = this.#chunks[0]) && this.#length - first.length >= this.#maxBytes;) {
      this.#chunks.shift();
      this.#length -= first.length;
    }
  }

  /** As text; a character that the cut went through is left out. */
  toString() {
    let bytes = Buffer.concat(this.#chunks);
    if (bytes.length > this.#maxBytes) {
      bytes = bytes.subarray(-this.#maxBytes);
      bytes = bytes.subarray(bytes.findIndex((byte) => (byte & 0xc0) !== 0x80));
    }
    return bytes.toString('utf8');
  }
}
