// node-llama-cpp as a player (see player.py): its prebuilt library, in this process.
import readline from "node:readline";
import {setTimeout as sleep} from "node:timers/promises";
import {getLlama, LlamaCompletion, LlamaGrammarEvaluationState} from "node-llama-cpp";

const [path, context, threads] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const shared = await model.createContext({
  sequences: 8, contextSize: Number(context), threads: Number(threads)
});
const sequences = Array.from({length: 8}, () => shared.getSequence());
const completion = new LlamaCompletion({contextSequence: sequences[0]});

async function answer(sequence, prompt, tokens, grammar, started) {
  const ids = model.tokenize(prompt, true);
  // What a sequence holds stays, as far as the prompt begins like it.
  await sequence.adaptStateToTokens(ids.slice(0, -1));
  if (sequence.nextTokenIndex >= ids.length) {  // it leaves the answer to the same prompt
    const answered = {start: ids.length - 1, end: sequence.nextTokenIndex};
    await sequence.eraseContextTokenRanges([answered]);
  }
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

async function answerAtOnce({prompts, tokens, schema}) {
  const started = performance.now();
  const grammar = schema && await llama.createGrammarForJsonSchema(schema);
  return await Promise.all(prompts.map(
    (prompt, index) => answer(sequences[index], prompt, tokens, grammar, started)
  ));
}

async function answerBehind({prompts: [long, short], tokens, wait_s, abandon}) {
  // What generates from tokens takes no signal; what completes texts does.
  const controller = new AbortController();
  const started = performance.now();
  const options = {signal: controller.signal, maxTokens: tokens, temperature: 0};
  let taken;
  const reading = completion.generateCompletion(model.tokenize(long, true), options)
    .finally(() => { taken = (performance.now() - started) / 1000; })
    .catch((error) => { if (!controller.signal.aborted) throw error; });
  await sleep(wait_s * 1000);
  if (taken) throw new Error("the long prompt was read too soon to tell");
  if (abandon) controller.abort();
  const soon = await answer(sequences[1], short, tokens, null, performance.now());
  await reading;
  return abandon ? [soon] : [[taken, taken], soon];
}

console.log("ready");
for await (const line of readline.createInterface({input: process.stdin})) {
  const question = JSON.parse(line);
  const times = await (question.wait_s ? answerBehind(question) : answerAtOnce(question));
  console.log(JSON.stringify(times));
}
process.exit(0);
