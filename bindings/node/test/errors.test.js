'use strict';

const assert = require('node:assert');
const { mkdirSync, readFileSync, realpathSync, symlinkSync, writeFileSync } = require('node:fs');
const path = require('node:path');
const { after, before, test } = require('node:test');

const { BUNDLE, Classifier, FILE, NimbertError, PACKAGE, SLOW, folder, runProgram, texts } = require('./common.js');

let classifier;
before(async () => (classifier = await Classifier.open(BUNDLE)));
after(() => classifier.close());

test('a bundle that is not there', async () => {
  await assert.rejects(Classifier.open('/nowhere/reviews.nimbert'), (error) => {
    assert.ok(error instanceof NimbertError);
    assert.strictEqual(error.code, 'IO');
    assert.match(error.message, /nowhere.reviews\.nimbert/);
    assert.match(error.stack, /errors\.test\.js/);
    return true;
  });
});

test('a damaged file', async (t) => {
  const content = readFileSync(FILE);
  content[content.indexOf('logits')] ^= 1; // Only the graph has the word.
  const damaged = path.join(folder(t), 'damaged.nimbert');
  writeFileSync(damaged, content);
  await assert.rejects(Classifier.open(damaged, { cache: 'none' }), { name: 'NimbertError', code: 'CHECKSUM' });
  await assert.rejects(Classifier.fromBuffer(content, { cache: 'none' }), { code: 'CHECKSUM' });
  await assert.rejects(Classifier.fromBuffer(content.subarray(0, 100)), { code: 'FORMAT' });
  await assert.rejects(Classifier.fromBuffer(Buffer.alloc(0)), { code: 'FORMAT' });
});

test('every option of the library is declared', async () => {
  const { message } = await Classifier.open(BUNDLE, { nonsense: 1 }).catch((error) => error);
  const names = /one of (.*), found/.exec(message)[1].split(', ');
  const declaration = /OpenOptions = \{[^]*?\n\};/.exec(readFileSync(path.join(PACKAGE, 'index.d.ts'), 'utf8'))[0];
  const declared = Array.from(declaration.matchAll(/(\w+)\?:/g), ([, name]) => name);
  const camelCase = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  assert.deepStrictEqual(declared, names.map(camelCase));
});

test('options that there are not', async () => {
  await assert.rejects(Classifier.open(BUNDLE, { batchSizes: 3 }), { code: 'SETTING', message: /batch_sizes/ });
  await assert.rejects(Classifier.open(BUNDLE, { threads: 0 }), { code: 'SETTING', message: /threads/ });
  await assert.rejects(Classifier.open(BUNDLE, { cache: null }), { name: 'TypeError', message: /cache/ });
  // No key at all is none that has signed.
  await assert.rejects(Classifier.open(BUNDLE, { publicKey: [] }), { name: 'TypeError', message: /publicKey/ });
  await assert.rejects(classifier.classify('dull', { truncation: 'middle' }), { code: 'SETTING' });
});

test('what is no text', async () => {
  for (const wrong of [undefined, null, 5, {}, ['one'], ['one', 'two', 'three'], [['one', 'two'], 'three']]) {
    await assert.rejects(classifier.classify(wrong), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
  }
  for (const wrong of [undefined, 5, {}, 'dull', Buffer.from('dull')]) {
    await assert.rejects(classifier.classifyBatch(wrong), { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
  }
  await assert.rejects(Classifier.open(5), TypeError);
  await assert.rejects(Classifier.fromBuffer('x.nimbert'), TypeError);
  assert.throws(() => new Classifier(), TypeError);
});

test('a text that is too long is refused on request', async () => {
  const long = texts(1, 2 * classifier.maxLength)[0];
  await classifier.classify(long);
  await assert.rejects(classifier.classify(long, { truncation: 'refuse' }), { code: 'TOO_LONG' });
});

test('signals end a call, before it and during it', async () => {
  const slow = await Classifier.open(BUNDLE, SLOW);
  const long = texts(5_000, 100);
  await assert.rejects(slow.classify('dull', { signal: AbortSignal.abort() }), { name: 'AbortError' });
  await assert.rejects(slow.classify('dull', { signal: AbortSignal.abort('enough') }), (reason) => reason === 'enough');
  const controller = new AbortController();
  const call = slow.classifyBatch(long, { signal: controller.signal });
  setTimeout(() => controller.abort(), 100);
  await assert.rejects(call, { name: 'AbortError' });
  await assert.rejects(slow.classifyBatch(long, { signal: AbortSignal.timeout(100) }), { name: 'TimeoutError' });
  // The others are not concerned, and a signal that comes late is not either.
  const late = new AbortController();
  await slow.classify('dull', { signal: late.signal });
  late.abort();
  await slow.close();
});

test('a deadline', async () => {
  const slow = await Classifier.open(BUNDLE, SLOW);
  await assert.rejects(slow.classifyBatch(texts(5_000, 100), { timeoutMs: 50 }), { code: 'DEADLINE_PASSED' });
  await slow.classify('dull', { timeoutMs: Infinity });
  for (const wrong of [-1, NaN]) await assert.rejects(slow.classify('dull', { timeoutMs: wrong }), RangeError);
  for (const wrong of ['5', true, null]) await assert.rejects(slow.classify('dull', { timeoutMs: wrong }), TypeError);
  await assert.rejects(slow.classify('dull', { truncation: 0 }), TypeError);
  for (const wrong of [0, 1.5, -1]) await assert.rejects(slow.classify('dull', { topK: wrong }), RangeError);
  // An option that there is not is not ignored.
  for (const unknown of [{ timeout: 1 }, { topk: 2 }]) {
    await assert.rejects(slow.classifyBatch(['dull'], unknown), { code: 'SETTING', message: /found (timeout|topk)$/ });
  }
  await assert.rejects(slow.explain('dull', { topK: 2 }), { code: 'SETTING', message: /found topK$/ });
  await slow.close();
});

test('closed: during calls, twice, and before calls', async () => {
  for (const opening of [Classifier.open(BUNDLE, SLOW), Classifier.fromBuffer(readFileSync(FILE), SLOW)]) {
    const slow = await opening;
    const call = slow.classifyBatch(texts(5_000, 100));
    setTimeout(() => slow.close(), 100);
    await assert.rejects(call, { code: 'CANCELLED' });
    await slow.close();
    await assert.rejects(slow.classify('dull'), { code: 'CLOSED' });
    const begun = await Classifier.open(BUNDLE, SLOW);
    const first = begun.classifyBatch(texts(20_000, 3));
    begun.close();
    // It was made before.
    await assert.rejects(first, { code: 'CANCELLED' });
    assert.ok(slow.labels.length > 0);
  }
});

test('the library of onnxruntime-node is found', async (t) => {
  const library = realpathSync(process.env.ORT_DYLIB_PATH);
  const modules = folder(t);
  const binaries = path.join(modules, 'onnxruntime-node', 'bin', 'napi-v6', process.platform, process.arch);
  mkdirSync(binaries, { recursive: true });
  writeFileSync(path.join(modules, 'onnxruntime-node', 'package.json'), '{}');
  symlinkSync(library, path.join(binaries, 'libonnxruntime.so.1'));
  const open = `Classifier.open(BUNDLE).then(
    () => console.log(require('node:fs').readFileSync('/proc/self/maps', 'utf8')),
    (error) => console.log(error.code, error.message));`;
  const found = await runProgram(open, { NODE_PATH: modules, ORT_DYLIB_PATH: '' });
  assert.ok(found.stdout.includes(library), found.stdout);
  const missing = await runProgram(open, { NODE_PATH: modules, ORT_DYLIB_PATH: '/nowhere/libonnxruntime.so' });
  assert.match(missing.stdout, /^LIBRARY_NOT_FOUND [^]*nowhere[^]*npm install onnxruntime-node/);
});

test('the versions of what is published are one', () => {
  const { version, optionalDependencies } = require(path.join(PACKAGE, 'package.json'));
  assert.strictEqual(require(path.join(PACKAGE, 'native.js')).version(), version);
  for (const dependency of Object.values(optionalDependencies)) assert.strictEqual(dependency, version);
});
