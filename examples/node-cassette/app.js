/** What the window of a small app calls: it shows answers as they come, and says what went wrong. */

import { CarError } from '../../bindings/node/index.js';

/** @typedef {import('../../bindings/node/index.js').Car} Car */
/** @typedef {import('../../bindings/node/src/wire/index.js').GenerateRequest} GenerateRequest */
/** @typedef {(text: string) => void} Show */

/** What a user can do about an error. */
const ADVICE = /** @type {Record<string, string>} */ ({
  cancelled: 'Stopped.',
  rate_limited: 'The provider is busy. Try again in a moment.',
  unauthorized: 'The provider does not know your key. Sign in again.',
});

export class Assistant {
  #car;

  /** @param {Car} car */
  constructor(car) {
    this.#car = car;
  }

  /**
   * Has a model of the provider answer; the app runs it, with the user's key.
   *
   * @param {string} hint The provider's name of the model.
   * @param {string} prompt
   * @param {Show} show
   */
  async ask(hint, prompt, show) {
    const model = `provider/${hint}:cloud`;
    await this.#car.models.register({
      model: { id: model, source: { type: 'delegated', hint }, capabilities: ['generate'] },
    });
    return this.#answer({ model, prompt }, show);
  }

  /**
   * Has the model on this machine tell a story, until the user has read enough of it.
   *
   * @param {Show} show
   * @param {number} [enough] Words.
   */
  async tellStory(show, enough = Infinity) {
    const params = { temperature: 0, max_tokens: 40 };
    return this.#answer({ prompt: 'Tell me a short story.', params }, show, enough);
  }

  /**
   * @param {GenerateRequest} request
   * @param {Show} show
   * @param {number} [enough]
   * @returns {Promise<string>} What stands below the answer.
   */
  async #answer(request, show, enough = Infinity) {
    const stream = this.#car.generate({ ...request, client_ref: crypto.randomUUID() });
    let pieces = 0;
    try {
      for await (const event of stream) {
        if (event.type !== 'text_delta') continue;
        show(event.text);
        pieces += 1;
        if (pieces === enough) break;
      }
      const { usage } = await stream.result;
      return `${usage?.completion_tokens} tokens`;
    } catch (error) {
      if (!(error instanceof CarError)) throw error;
      return ADVICE[error.kind] ?? 'Something went wrong. Try again.';
    }
  }
}
