'use strict';

const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { pathToFileURL } = require('node:url');
const { after, before, test } = require('node:test');

const { BUNDLE, Classifier, FILE, MANIFEST, PACKAGE, PROGRAM, SLOW, assertSameAnswer, commandLine, texts } = require('./common.js');

/** @type {import('..').Classifier} */
let classifier;
before(async () => (classifier = await Classifier.open(BUNDLE)));
after(() => classifier.close());

test('answers are those of the command line', async (t) => {
  const lines = texts(2000);
  const predictions = await classifier.classifyBatch(lines);
  commandLine(t, lines).forEach((answer, i) => assertSameAnswer(predictions[i], answer));
});

test('one file, by its path, its URL and its content, answers as the folder does', async () => {
  const expected = await classifier.classify('a lovely movie');
  const content = readFileSync(FILE);
  for (const opening of [Classifier.open(FILE), Classifier.open(pathToFileURL(FILE)), Classifier.fromBuffer(content)]) {
    const opened = await opening;
    // It has a copy.
    content.fill(0);
    assert.deepStrictEqual(await opened.classify('a lovely movie'), expected);
    await opened.close();
  }
});

test('what a classifier says of itself', () => {
  const { id2label } = JSON.parse(readFileSync(`${BUNDLE}/config.json`, 'utf8'));
  assert.deepStrictEqual(classifier.labels, Object.values(id2label));
  assert.strictEqual(classifier.device, 'cpu');
  assert.strictEqual(classifier.maxLength, MANIFEST.max_length);
});

test('label, score, scores, logits, labels and top agree', async () => {
  const { labels } = classifier;
  for (const prediction of await classifier.classifyBatch(texts(50), { topK: labels.length + 1 })) {
    const best = labels.reduce((a, b) => (prediction.scores[b] > prediction.scores[a] ? b : a));
    assert.strictEqual(prediction.label, best);
    assert.strictEqual(prediction.score, prediction.scores[best]);
    assert.deepStrictEqual(prediction.labels, [best]);
    assert.strictEqual(prediction.abstained, prediction.score < (MANIFEST.abstain_threshold ?? 0));
    const all = labels.map((label) => ({ label, score: prediction.scores[label] }));
    assert.deepStrictEqual(prediction.top, all.sort((a, b) => b.score - a.score));
    const exponentials = prediction.logits.map((logit) => Math.exp(logit / MANIFEST.temperature));
    const sum = exponentials.reduce((a, b) => a + b);
    labels.forEach((label, id) => assert.ok(Math.abs(exponentials[id] / sum - prediction.scores[label]) < 1e-5));
  }
  assert.strictEqual((await classifier.classify('dull', { topK: 1 })).top.length, 1);
  // More than 32 bits.
  const [one, other] = await classifier.classifyBatch(['dull', 'great'], { topK: 2 ** 32 + 1 });
  assert.deepStrictEqual([one.top.length, other.top.length, other.top[0].label], [labels.length, labels.length, other.label]);
  assert.ok(!('top' in (await classifier.classify('dull'))));
});

test('what only some bundles say', async () => {
  const { set, distance, unknown } = await classifier.classify('dull');
  assert.deepStrictEqual([set, distance, unknown], [null, null, false]);
  const bundle = path.join(path.dirname(BUNDLE), 'bundle-certain');
  const manifest = JSON.parse(readFileSync(path.join(bundle, 'nimbert.json'), 'utf8'));
  const certain = await Classifier.open(bundle);
  const predictions = await certain.classifyBatch(['great acting', 'terrible , a great plot']);
  assert.deepStrictEqual(predictions.map((prediction) => prediction.unknown), [true, false]);
  for (const prediction of predictions) {
    assert.strictEqual(prediction.unknown, prediction.distance > manifest.unknown.threshold);
    const [threshold] = manifest.coverage.thresholds;
    const reaches = (label) => label === prediction.label || prediction.scores[label] >= threshold;
    assert.deepStrictEqual(prediction.set, certain.labels.filter(reaches));
  }
  await certain.close();
});

test('several tasks', async () => {
  assert.deepStrictEqual(classifier.tasks, {});
  const { task, further } = await classifier.classify('dull');
  assert.deepStrictEqual([task, further], [null, {}]);
  const several = await Classifier.open(path.join(path.dirname(BUNDLE), 'bundle-tasks'));
  assert.deepStrictEqual(several.tasks, { stars: ['1', '2', '10'], mood: ['great', 'terrible'] });
  const predictions = await several.classifyBatch(['great plot and plot 2', 'terrible films and films 1'], { topK: 2 });
  assert.deepStrictEqual(predictions.map(({ task, label }) => [task, label]), [['stars', '10'], ['stars', '1']]);
  const moods = predictions.map((prediction) => prediction.further.mood);
  assert.deepStrictEqual(moods.map(({ label }) => label), ['great', 'terrible']);
  for (const mood of moods) {
    assert.deepStrictEqual([mood.task, mood.top.length, mood.top[0].label], ['mood', 2, mood.label]);
    assert.strictEqual(mood.scores[mood.label], mood.score);
  }
  await several.close();
});

test('explanations are those of the command line', async () => {
  // Characters of one to four bytes before words: places are counted as strings are.
  const text = 'naïve 映画 😀, a great plot';
  for (const options of [{}, { attribution: 'leave-one-out' }, { label: classifier.labels[0] }]) {
    const named = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
    const program = JSON.parse(execFileSync(PROGRAM, ['explain', BUNDLE, text, '--json', ...named]).toString());
    const explanation = await classifier.explain(text, options);
    assert.deepStrictEqual([explanation.label, explanation.attribution], [program.label, program.attribution]);
    assert.deepStrictEqual(explanation.words.map((word) => word.text), program.words.map(({ word }) => word));
    explanation.words.forEach(({ text: word, attribution, start, end, isOfPair }, i) => {
      assert.deepStrictEqual([text.slice(start, end), isOfPair], [word, false]);
      assert.ok(Math.abs(attribution - program.words[i].attribution) < 1e-4);
    });
    assert.ok(Math.abs(explanation.value - program.value) < 1e-4);
    assert.ok(Math.abs(explanation.baseValue - program.base_value) < 1e-4);
    assert.strictEqual(explanation.prediction.label, program.prediction.label);
    assert.deepStrictEqual(structuredClone(explanation), explanation);
    const ofBytes = await classifier.explain(Buffer.from(text), options);
    assert.deepStrictEqual(ofBytes.words.map(({ text }) => text), explanation.words.map(({ text }) => text));
  }
  const pairs = await Classifier.open(path.join(path.dirname(BUNDLE), 'bundle-2'));
  const { words } = await pairs.explain(['naïve 😀 film', Buffer.from('a plot')]);
  const places = words.map(({ text, start, end, isOfPair }) => [text, start, end, isOfPair]);
  assert.deepStrictEqual(places.slice(-3), [['film', 9, 13, false], ['a', 0, 1, true], ['plot', 2, 6, true]]);
  await pairs.close();
  const half = await classifier.explain('half \ud83c plot');
  assert.deepStrictEqual(half.words.map(({ text }) => text), ['half', '\ufffd', 'plot']);
});

test('what is explained', async () => {
  const several = await Classifier.open(path.join(path.dirname(BUNDLE), 'bundle-tasks'));
  const { label, words, prediction } = await several.explain('a great plot', { task: 'mood', label: 'terrible' });
  assert.deepStrictEqual([label, prediction.task, prediction.label], ['terrible', 'mood', 'great']);
  assert.ok(words.find(({ text }) => text === 'great').attribution < 0);
  assert.deepStrictEqual((await several.explain('a great plot')).prediction.further, {});
  await assert.rejects(several.explain('a plot', { task: 'nonsense' }), { code: 'SETTING', message: /stars, mood/ });
  await assert.rejects(several.explain('a plot', { label: 'nonsense' }), { code: 'SETTING', message: /1, 2, 10/ });
  await assert.rejects(several.explain('a plot', { attribution: 'nonsense' }), { code: 'SETTING', message: /shapley/ });
  const long = texts(1, 60)[0];
  await assert.rejects(several.explain(long, { attribution: 'shapley', timeoutMs: 1 }), { code: 'DEADLINE_PASSED' });
  await assert.rejects(several.explain(long, { signal: AbortSignal.abort() }), { name: 'AbortError' });
  for (const wrong of [5, ['one'], ['one', 'two', 'three']]) {
    await assert.rejects(several.explain(wrong), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
  }
  for (const wrong of [{ label: 1 }, { task: null }, { attribution: {} }]) {
    await assert.rejects(several.explain('a plot', wrong), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
  }
  await assert.rejects(several.explain('a plot', { truncation: 'middle' }), { code: 'SETTING' });
  // Some thousand runs, one after the other.
  const slow = await Classifier.open(BUNDLE, SLOW);
  const controller = new AbortController();
  const call = slow.explain(texts(1, 120)[0], { attribution: 'shapley', signal: controller.signal });
  setTimeout(() => controller.abort(), 20);
  await assert.rejects(call, { name: 'AbortError' });
  // Before there is a call to cancel: none begins.
  const early = new AbortController();
  const begun = slow.explain(texts(1, 120)[0], { attribution: 'shapley', signal: early.signal });
  early.abort();
  const answered = slow.classify('dull').then(() => 'an answer');
  assert.strictEqual(await Promise.race([begun.catch((error) => error.name), answered]), 'AbortError');
  await answered;
  const closed = slow.explain(texts(1, 120)[0], { attribution: 'shapley' });
  setTimeout(() => slow.close(), 20);
  await assert.rejects(closed, { code: 'CANCELLED' });
  await several.close();
  await assert.rejects(several.explain('a plot'), { code: 'CLOSED' });
});

test('answers are plain data', async () => {
  const prediction = await classifier.classify('dull');
  assert.deepStrictEqual(structuredClone(prediction), prediction);
  assert.deepStrictEqual(JSON.parse(JSON.stringify(prediction)), prediction);
});

test('bytes are read as strings are', async () => {
  const inputs = ['a lovely movie', 'naïve — 電影 🎬', ''];
  const all = Buffer.from(inputs.join('\n'));
  let begin = 0;
  const views = inputs.map((text) => {
    const end = begin + Buffer.byteLength(text);
    const view = all.subarray(begin, end);
    begin = end + 1;
    return view;
  });
  const expected = await classifier.classifyBatch(inputs);
  assert.deepStrictEqual(await classifier.classifyBatch(views), expected);
  assert.deepStrictEqual(await classifier.classifyBatch(views.map((view) => new Uint8Array(view))), expected);
  assert.deepStrictEqual(await classifier.classify('half \ud83c'), await classifier.classify('half \ufffd'));
  await assert.rejects(classifier.classify(Buffer.from([0x61, 0xff])), { code: 'INPUT', message: /UTF-8/ });
});

test('a pair is read where the bundle allows it', async () => {
  const pair = ['the movie', Buffer.from('was dull')];
  if (MANIFEST.pairs === false) {
    await assert.rejects(classifier.classify(pair), { code: 'INPUT', message: /a pair of texts/ });
  } else {
    const [one, two] = await classifier.classifyBatch([pair, ['was dull', 'the movie']]);
    assert.notDeepStrictEqual(one.logits, two.logits);
    assert.deepStrictEqual(await classifier.classify(['the movie', 'was dull']), one);
  }
});

test('a hundred calls at once answer as one after the other', async () => {
  const inputs = texts(100);
  const [batch, single] = await Promise.all([
    classifier.classifyBatch(inputs),
    Promise.all(inputs.map((text) => classifier.classify(text))),
  ]);
  single.forEach((prediction, i) => assertSameAnswer(prediction, batch[i]));
});

test('a batch of none, and of anything that can be iterated', async () => {
  assert.deepStrictEqual(await classifier.classifyBatch([]), []);
  const expected = await classifier.classifyBatch(['dull', 'good']);
  assert.deepStrictEqual(await classifier.classifyBatch(new Set(['dull', 'good'])), expected);
});

test('timers run during a batch of 10,000', async () => {
  const inputs = texts(10_000);
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const began = performance.now();
  await classifier.classifyBatch(inputs);
  const elapsed = performance.now() - began;
  clearInterval(timer);
  // bench.js measures it; here, where other tests run beside it, it must not be blocked as a whole.
  assert.ok(ticks > elapsed / 25, `${ticks} ticks in ${elapsed} ms`);
});

test('modules import it by name', async () => {
  const module = await import(pathToFileURL(require.resolve(PACKAGE)).href);
  assert.strictEqual(module.Classifier, Classifier);
});
