'use strict';

// What process.test.js runs in a worker.

const { parentPort, workerData } = require('node:worker_threads');

const { name, PACKAGE, BUNDLE, SLOW, texts } = workerData;
const { Classifier } = require(PACKAGE);

const runs = {
  async classify() {
    const classifier = await Classifier.open(BUNDLE);
    parentPort.postMessage(await classifier.classify('a lovely movie'));
  },
  async batch() {
    const classifier = await Classifier.open(BUNDLE, SLOW);
    setTimeout(() => parentPort.postMessage('running'), 100);
    await classifier.classifyBatch(texts);
  },
  async exit() {
    const classifier = await Classifier.open(BUNDLE, SLOW);
    setTimeout(() => parentPort.postMessage('running'), 100);
    setTimeout(() => process.exit(5), 150);
    await classifier.classifyBatch(texts);
  },
};

runs[name]();
