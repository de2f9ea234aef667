'use strict';

// The end of the process, of workers, and what keeps either alive.

const assert = require('node:assert');
const { once } = require('node:events');
const path = require('node:path');
const { test } = require('node:test');
const { Worker } = require('node:worker_threads');

const { BUNDLE, Classifier, PACKAGE, SLOW, runProgram, runScript, texts } = require('./common.js');

const WORKER = path.join(__dirname, 'worker.js');

/** Starts what worker.js calls `name`. */
function work(name) {
  return new Worker(WORKER, { workerData: { name, PACKAGE, BUNDLE, SLOW, texts: texts(5_000, 100) } });
}

test('a process ends when nothing is left to do, and not before', async () => {
  const program = `Classifier.open(BUNDLE).then((classifier) => {
    global.kept = classifier;
    return classifier.classify('dull');
  }).then((prediction) => console.log(prediction.label));`;
  const { status, signal, stdout, stderr } = await runProgram(program);
  assert.deepStrictEqual({ status, signal, stderr }, { status: 0, signal: null, stderr: '' });
  assert.match(stdout, /\w+\n/);
});

test('process.exit in the middle of calls', async () => {
  const exits = {
    opening: `Classifier.open(BUNDLE); setTimeout(() => process.exit(7), 5);`,
    batch: `Classifier.open(BUNDLE, SLOW).then((classifier) => {
      classifier.classifyBatch(texts(5_000, 100));
      setTimeout(() => process.exit(7), 100);
    });`,
    closing: `Classifier.open(BUNDLE, SLOW).then((classifier) => {
      classifier.classifyBatch(texts(5_000, 100));
      setTimeout(() => process.exit((classifier.close(), 7)), 100);
    });`,
    all: `for (const options of [SLOW, {}, { parallelism: 'throughput' }]) {
      Classifier.open(BUNDLE, options).then((classifier) => {
        for (let i = 0; i < 50; i++) classifier.classifyBatch(texts(200, 100));
      });
    }
    setTimeout(() => process.exit(7), 300);`,
  };
  for (const [name, program] of Object.entries(exits)) {
    for (let i = 0; i < 3; i++) {
      const { status, signal, stderr } = await runProgram(program);
      assert.deepStrictEqual({ name, status, signal, stderr }, { name, status: 7, signal: null, stderr: '' });
    }
  }
});

test('an exception that nobody catches, in the middle of calls', async () => {
  const { status, signal, stderr } = await runProgram(`Classifier.open(BUNDLE, SLOW).then((classifier) => {
    classifier.classifyBatch(texts(5_000, 100));
    setTimeout(() => { throw new Error('of the application'); }, 100);
  });`);
  assert.deepStrictEqual({ status, signal }, { status: 1, signal: null });
  assert.match(stderr, /of the application/);
});

test('a worker answers as the main thread does, and ends', async () => {
  const classifier = await Classifier.open(BUNDLE);
  const worker = work('classify');
  const exit = once(worker, 'exit');
  const [prediction] = await once(worker, 'message');
  assert.deepStrictEqual(prediction, await classifier.classify('a lovely movie'));
  assert.deepStrictEqual(await exit, [0]);
  await classifier.close();
});

test('workers that are ended in the middle of calls leave the others alone', async () => {
  const classifier = await Classifier.open(BUNDLE);
  for (const name of ['batch', 'batch', 'exit']) {
    const worker = work(name);
    const exit = once(worker, 'exit');
    await once(worker, 'message');
    await classifier.classifyBatch(texts(100));
    if (name === 'batch') await worker.terminate();
    assert.deepStrictEqual(await exit, [name === 'batch' ? 1 : 5]);
  }
  await classifier.classifyBatch(texts(100));
  await classifier.close();
});

test('process.exit while a worker classifies', async () => {
  const data = `{ name: 'batch', PACKAGE: ${JSON.stringify(PACKAGE)}, BUNDLE, SLOW, texts: texts(5_000, 100) }`;
  const { status, signal, stderr } = await runProgram(`const { Worker } = require('node:worker_threads');
    const worker = new Worker(${JSON.stringify(WORKER)}, { workerData: ${data} });
    worker.once('message', () => setTimeout(() => process.exit(7), 50));`);
  assert.deepStrictEqual({ status, signal, stderr }, { status: 7, signal: null, stderr: '' });
});

test('a worker that is the first to load nimbert warns that ONNX Runtime may call home', async () => {
  // No bundle is there, so that the library is not loaded.
  const load = `require(${JSON.stringify(PACKAGE)})`;
  const open = `${load}.Classifier.open('/nowhere').catch((error) => console.log(error.code));`;
  const worker = `new (require('node:worker_threads').Worker)(${JSON.stringify(open)}, { eval: true });`;
  for (const [script, variable, warns] of [
    [worker, undefined, true],
    [worker, '1', false],
    [load + ';' + worker, undefined, false],
  ]) {
    const { stdout, stderr } = await runScript(script, { ORT_DISABLE_TELEMETRY: variable });
    assert.strictEqual(stdout, 'IO\n');
    assert.strictEqual(/ORT_DISABLE_TELEMETRY/.test(stderr), warns, stderr);
  }
});
