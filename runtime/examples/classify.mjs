// From Node.js: one text, several at once, a call that is given up, an error.
//
//     node classify.mjs reviews.nimbert

import { Classifier, NimbertError } from '@nimbert/nimbert';

/** @param {import('@nimbert/nimbert').Prediction} prediction */
function print({ label, score }) {
  console.log(label, score.toFixed(3));
}

const classifier = await Classifier.open(process.argv[2] ?? 'reviews.nimbert', { threads: 2 });
print(await classifier.classify('I love this movie!'));

const predictions = await classifier.classifyBatch(['dull', 'a delight from start to finish', 'well, it ends']);
predictions.forEach(print);

// AbortSignal.timeout(1000) would give it a second.
const controller = new AbortController();
const many = Array(20000).fill('a long story that nobody waits for');
const call = classifier.classifyBatch(many, { signal: controller.signal });
controller.abort();
try {
  await call;
} catch (error) {
  if (!controller.signal.aborted) throw error;
  console.log('cancelled');
}

try {
  await Classifier.open('nowhere.nimbert');
} catch (error) {
  if (!(error instanceof NimbertError)) throw error;
  console.log(`${error.code.toLowerCase()}: ${error.message}`);
}

await classifier.close();
