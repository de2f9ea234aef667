// Compiled by types.test.js, strictly, against index.d.ts alone.
import { Classifier, NimbertError } from '@nimbert/nimbert';
import type { CallOptions, ErrorCode, Explanation, Input, OpenOptions, Prediction, Word } from '@nimbert/nimbert';

const options: OpenOptions = { device: 'cpu', threads: 2, memoryLimit: '300MB', publicKey: ['a.pub', 'b.pub'] };
const call: CallOptions = { signal: AbortSignal.timeout(1000), timeoutMs: 500, truncation: 'left', topK: 3 };

export async function example(path: string | URL, content: Buffer): Promise<string[]> {
  const classifier: Classifier = await Classifier.open(path, options);
  const prediction: Prediction = await classifier.classify('a lovely movie', call);
  const inputs: Input[] = ['dull', Buffer.from('good'), new Uint8Array(), ['one', 'two'], [Buffer.from('one'), 'two']];
  const predictions: Prediction[] = await classifier.classifyBatch(inputs);
  await classifier.classifyBatch(new Set(['dull', 'good']));
  const why: Explanation = await classifier.explain(['one', 'two'], { label: 'positive', attribution: 'shapley' });
  console.log(why.words.map(({ text, attribution }: Word) => `${text} ${attribution}`), why.value - why.baseValue);
  const best: string | undefined = prediction.top?.[0]?.label;
  const positive: number | undefined = prediction.scores['positive'];
  const labels: readonly string[] = classifier.labels;
  console.log(best, positive, labels, classifier.device, classifier.maxLength, prediction.logits.length);
  try {
    await Classifier.fromBuffer(content);
  } catch (error) {
    if (error instanceof NimbertError) {
      const code: ErrorCode = error.code;
      console.log(code === 'CHECKSUM', error.message);
    }
  }
  await classifier.close();
  return predictions.map(({ label, score, labels, abstained }) => `${label} ${score} ${labels} ${abstained}`);
}

export async function mistakes(classifier: Classifier): Promise<void> {
  // @ts-expect-error: classifiers are opened.
  new Classifier();
  // @ts-expect-error: no such option.
  await Classifier.open('reviews.nimbert', { batchSizes: 3 });
  // @ts-expect-error: not a text.
  await classifier.classify(5);
  // @ts-expect-error: not a pair.
  await classifier.classify(['one', 'two', 'three']);
  // @ts-expect-error: no such way to cut.
  await classifier.classify('dull', { truncation: 'middle' });
  // @ts-expect-error: no such attribution.
  await classifier.explain('dull', { attribution: 'gradient' });
  // @ts-expect-error: labels are what they are.
  classifier.labels.push('more');
}
