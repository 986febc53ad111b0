// node-llama-cpp as a player (see player.py): its prebuilt library, in this process.
import readline from "node:readline";
import {getLlama, LlamaGrammarEvaluationState} from "node-llama-cpp";

const [path, context, threads] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const shared = await model.createContext({
  sequences: 8, contextSize: Number(context), threads: Number(threads)
});
const sequences = Array.from({length: 8}, () => shared.getSequence());

async function answer(sequence, prompt, tokens, grammar, started) {
  const ids = model.tokenize(prompt, true);
  // What a sequence holds stays, as far as the prompt begins like it.
  await sequence.adaptStateToTokens(ids.slice(0, -1));
  const rest = ids.slice(sequence.nextTokenIndex);
  let first = 0, count = 0;
  const options = {temperature: 0, yieldEogToken: true};
  if (grammar) {
    const state = new LlamaGrammarEvaluationState({model, grammar});
    options.grammarEvaluationState = state;
  }
  for await (const token of sequence.evaluate(rest, options)) {
    first ||= performance.now() - started;
    if (++count === tokens) break;
  }
  return [first / 1000, (performance.now() - started) / 1000];
}

console.log("ready");
for await (const line of readline.createInterface({input: process.stdin})) {
  const {prompts, tokens, schema} = JSON.parse(line);
  const started = performance.now();
  const grammar = schema && await llama.createGrammarForJsonSchema(schema);
  const times = prompts.map(
    (prompt, index) => answer(sequences[index], prompt, tokens, grammar, started)
  );
  console.log(JSON.stringify(await Promise.all(times)));
}
process.exit(0);
