/** What to spawn. */

/**
 * @typedef {object} Command
 * @property {string} file The program.
 * @property {string[]} args
 */

/**
 * The command line of the core.
 *
 * @param {string | readonly string[] | undefined} command Path of the car-rpc program, or a whole
 *   command line. Without it the environment's `CAR_RPC_COMMAND` counts, which is either of the
 *   two, a command line as a JSON array; without that, `car-rpc` on the PATH.
 * @param {readonly string[]} args Further arguments.
 * @param {NodeJS.ProcessEnv} env
 * @returns {Command}
 * @throws {TypeError} It is neither.
 */
export function resolveCommand(command, args, env) {
  const wanted = command ?? fromEnvironment(env.CAR_RPC_COMMAND) ?? 'car-rpc';
  const words = typeof wanted === 'string' ? [wanted, 'serve'] : wanted;
  if (!Array.isArray(words) || words.length === 0 || !words.every(isWord)) {
    throw new TypeError('command must be the path of a program or a list of strings');
  }
  const [file, ...rest] = words;
  return { file, args: [...rest, ...args] };
}

/** @param {string | undefined} text */
function fromEnvironment(text) {
  if (!text) return undefined;
  if (!text.startsWith('[')) return text;
  try {
    return JSON.parse(text);
  } catch {
    throw new TypeError('CAR_RPC_COMMAND must be the path of a program or a JSON array of strings');
  }
}

/** @param {unknown} word */
function isWord(word) {
  return typeof word === 'string' && word !== '';
}
