'use strict';

// What an application sees. The compiled module (src/lib.rs) never waits on this thread; here the work that only this
// thread can do, to read strings and to make objects, is done some at a time.

const { readdirSync } = require('node:fs');
const path = require('node:path');
const { setImmediate: turn } = require('node:timers/promises');
const { fileURLToPath } = require('node:url');
const { isUint8Array } = require('node:util/types');

// ONNX Runtime's library looks up a host and writes a device's id below the user's folder, unless this is set before it
// is loaded.
process.env.ORT_DISABLE_TELEMETRY ??= '1';

const native = require('./native.js');

/**
 * A text: a string, or its UTF-8 bytes. Bytes must not be changed before the call's promise is settled.
 * @typedef {string | Uint8Array} Text
 */

/**
 * What is classified: a text, or, by a classifier of pairs, two texts.
 * @typedef {Text | readonly [text: Text, pair: Text]} Input
 */

/**
 * How a bundle is opened. The defaults are right for a desktop application.
 * @typedef {object} OpenOptions
 * @property {string} [device] `cpu` (the default), `cuda`, `cuda:1`, `tensorrt`, or `auto`.
 * @property {number} [threads] Threads that classify. Default: one for each core.
 * @property {string} [variant] The graph's name in the bundle. Default: the one that was made for the device.
 * @property {'auto' | 'latency' | 'throughput'} [parallelism] What runs beside each other.
 * @property {number} [batchSize] The most texts in one run of the graph.
 * @property {number} [maxBatchTokens] The most tokens in one run of the graph.
 * @property {number} [maxWaitMs] How long a text waits for those of other calls, in milliseconds. Default: 0.
 * @property {number} [queueLimit] How many texts may wait; a call that would exceed it fails with `QUEUE_FULL`.
 * @property {number | string} [memoryLimit] How much memory the process may have: bytes, or `300MB`, `2GB`, `64MiB`.
 * @property {number | string} [gpuMemoryLimit] How much memory of the GPU may be used.
 * @property {string} [cache] Where compiled graphs are kept: a folder, `none`, or `auto` (the default), nimbert's own.
 * @property {'always' | 'once' | 'never'} [verify] When the graph's files are compared with their digests.
 * @property {string | readonly string[]} [publicKey] Keys of which one must have signed the bundle: lines of base64, or
 *   files.
 * @property {'known' | 'any'} [operators] Which operators a graph may have. Default: `known`.
 * @property {boolean} [standardOperators] Whether ONNX Runtime's operators compute alone, without nimbert's own, which are
 *   several of them in one.
 * @property {string} [ortLib] ONNX Runtime's library. Default: what `ORT_DYLIB_PATH` names, or that of the package
 *   `onnxruntime-node`. A process has one: the first that is loaded stays.
 * @property {boolean} [spinning] Whether threads that wait keep their cores busy.
 * @property {boolean} [fastMath] Whether fp32 may be multiplied in bfloat16: ARM with that format under Linux, else an error.
 * @property {boolean} [allowCpu] Whether a GPU may leave parts of the graph to the CPU.
 * @property {string} [profile] Where ONNX Runtime writes what each operator took: a path, to which it appends.
 */

/**
 * How a call is made.
 * @typedef {object} CallOptions
 * @property {AbortSignal} [signal] Ends the call: its promise is rejected with the signal's reason.
 * @property {number} [timeoutMs] After so many milliseconds the call fails with `DEADLINE_PASSED`. Default: never.
 * @property {'bundle' | 'left' | 'right' | 'refuse'} [truncation] What becomes of a text that is too long: it is cut as
 *   the bundle says (the default), at its beginning, at its end, or the call fails with `TOO_LONG`.
 * @property {number} [topK] How many labels {@link Prediction.top} has.
 */

/**
 * The answer for one input: plain data.
 * @typedef {object} Prediction
 * @property {string} label The label with the highest score.
 * @property {number} score Its score, between 0 and 1.
 * @property {Record<string, number>} scores The score of every label.
 * @property {number[]} logits What the graph gave for every label, in the order of {@link Classifier.labels}.
 * @property {string[]} labels The labels that hold: `label`, or, where a text has any number, those that reach their
 *   threshold.
 * @property {boolean} abstained Whether the classifier is unsure, and `label` a guess.
 * @property {string[] | null} set The labels among which the right one is in as many cases as the bundle says, if it does.
 * @property {number | null} distance How far the text is from those of training, 1 being the mean of theirs, if the bundle says it.
 * @property {boolean} unknown Whether that is more than the bundle's threshold: the text is like nothing in training.
 * @property {string | null} task What the task is called that this is the answer to; null where the bundle has only one.
 * @property {Record<string, Prediction>} further The answers to the bundle's other tasks, by their names; of an explanation, none.
 * @property {{ label: string, score: number }[]} [top] The most likely labels, best first: there if `topK` was given.
 */

/**
 * What of an answer is explained.
 * @typedef {object} ExplainOptions
 * @property {string} [task] The answer to which task. Default: to the first.
 * @property {string} [label] Why which label. Default: the one that the text gets.
 * @property {'auto' | 'leave-one-out' | 'shapley'} [attribution] What a word's attribution is: what leaving it out changes, a
 *   run of the graph a word; a Shapley value (of n words 2ⁿ runs up to ten, 32 n of more); or `auto` (the default): Shapley
 *   values up to ten words.
 * @property {AbortSignal} [signal] As in {@link CallOptions}, and so are the two that follow.
 * @property {number} [timeoutMs]
 * @property {'bundle' | 'left' | 'right' | 'refuse'} [truncation]
 */

/**
 * A word, or a sign, and what it does to the answer.
 * @typedef {object} Word
 * @property {string} text The word: that part of its text from `start` to `end`, as it was read.
 * @property {number} attribution By how much it raises what is explained.
 * @property {number} start Where it begins in its text, as strings are counted, of bytes too.
 * @property {number} end Where it ends.
 * @property {boolean} isOfPair Whether it is one of the second text of a pair.
 */

/**
 * Why a text gets a label, or does not: plain data.
 * @typedef {object} Explanation
 * @property {string} label The label that is explained.
 * @property {Word[]} words The words that are read, in their order; of a pair, all words.
 * @property {number} value What is explained: the label's logit, less the mean of all labels' where a text has one label.
 * @property {number} baseValue The same of a text without words. Shapley values sum to the difference.
 * @property {'leave-one-out' | 'shapley'} attribution What the attributions are.
 * @property {number} unreadWords Further words, which are cut off, since the text is too long.
 * @property {Prediction} prediction The answer to the task that is explained.
 */

/**
 * What went wrong. `CLOSED`: the classifier was closed before the call. `PANIC`: a fault of nimbert's own.
 * @typedef {'IO' | 'FORMAT' | 'CHECKSUM' | 'SIGNATURE' | 'OUTPUT_EXISTS' | 'TOKENIZER' | 'TOO_LONG' | 'INPUT'
 *   | 'LIBRARY_NOT_FOUND' | 'DEVICE' | 'SESSION' | 'QUEUE_FULL' | 'CANCELLED' | 'DEADLINE_PASSED' | 'MEMORY_LIMIT'
 *   | 'SETTING' | 'FORKED' | 'CLOSED' | 'PANIC'} ErrorCode
 */

/** So long this thread works before the event loop has its turn, in milliseconds. */
const SLICE_MS = 1;

/**
 * Classifiers with calls that are not settled.
 * @type {Set<Classifier>}
 */
const busy = new Set();

/** Says which file or thing is concerned, what was expected and what was found. */
class NimbertError extends Error {
  /**
   * @param {ErrorCode} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    /**
     * What went wrong.
     * @readonly
     */
    this.code = code;
  }
}
NimbertError.prototype.name = 'NimbertError';

/**
 * A text classifier. It works on threads of its own; inputs of calls that overlap are run together. Its memory is free
 * after {@link Classifier.close}, or some time after it was last referenced.
 */
class Classifier {
  static {
    // The library must not run a graph while the process takes itself down.
    process.once('exit', () => {
      for (const classifier of busy) {
        if (!classifier.#closed) classifier.#native.closeNow();
      }
    });
  }

  #native;
  /** @type {ReturnType<typeof taskOf>[]} */
  #tasks;
  #calls = 0;
  /** @type {Promise<void> | undefined} */
  #closed;

  /**
   * @private
   * @param {any} opened
   */
  constructor(opened) {
    if (!(opened instanceof native.Classifier)) throw new TypeError('a classifier is made by Classifier.open');
    this.#native = opened;
    this.#tasks = opened.tasks.map(taskOf);
    /**
     * Label names in the order of their ids; of a bundle with several tasks, the first one's.
     * @readonly
     * @type {readonly string[]}
     */
    this.labels = this.#tasks[0].labels;
    /**
     * The labels of each task by its name, of a bundle with several; else empty.
     * @readonly
     * @type {Readonly<Record<string, readonly string[]>>}
     */
    this.tasks = Object.freeze(
      Object.fromEntries(this.#tasks.filter(({ name }) => name !== null).map(({ name, labels }) => [String(name), labels])),
    );
    /**
     * Where the graph runs: `cpu`, `cuda`, `cuda:1`, `tensorrt`, ….
     * @readonly
     * @type {string}
     */
    this.device = opened.device;
    /**
     * How many tokens of a text are read.
     * @readonly
     * @type {number}
     */
    this.maxLength = opened.maxLength;
  }

  /**
   * Opens a bundle: a folder, or a `.nimbert` file.
   * @param {string | URL} path
   * @param {OpenOptions} [options]
   * @returns {Promise<Classifier>}
   */
  static async open(path, options) {
    if (typeof path !== 'string' && !(path instanceof URL)) throw wrongType('a path', path);
    return new Classifier(await open(path instanceof URL ? fileURLToPath(path) : path, options));
  }

  /**
   * Opens the content of a `.nimbert` file. It is copied, and the copy is kept until the classifier is closed: a path
   * takes less memory.
   * @param {Uint8Array} buffer
   * @param {OpenOptions} [options]
   * @returns {Promise<Classifier>}
   */
  static async fromBuffer(buffer, options) {
    if (!isUint8Array(buffer)) throw wrongType('a Buffer', buffer);
    return new Classifier(await open(buffer, options));
  }

  /**
   * Classifies one text, or a pair of texts.
   * @param {Input} input
   * @param {CallOptions} [options]
   * @returns {Promise<Prediction>}
   */
  async classify(input, options) {
    const [prediction] = await this.#run([input], options);
    return prediction;
  }

  /**
   * Classifies many texts, or pairs of texts; the answers come in the same order. For texts without end make calls of
   * some thousands, two at a time.
   * @param {Iterable<Input>} inputs
   * @param {CallOptions} [options]
   * @returns {Promise<Prediction[]>}
   */
  async classifyBatch(inputs, options) {
    if (isText(inputs) || typeof inputs?.[Symbol.iterator] !== 'function') throw wrongType('an array of texts', inputs);
    return this.#run([...inputs], options);
  }

  /**
   * Attributes the answer for a text, or a pair of texts, to its words, by what it would be without some of them.
   * @param {Input} input
   * @param {ExplainOptions} [options]
   * @returns {Promise<Explanation>}
   */
  async explain(input, options = {}) {
    const { task, label, attribution, ...callOptions } = options;
    for (const [name, value] of Object.entries({ task, label, attribution })) {
      if (!(value === undefined || typeof value === 'string')) throw wrongType(`a string for ${name}`, value);
    }
    const given = /** @type {Text[]} */ (isText(input) ? [input] : pairOf(input));
    // As they are read: halves of characters are U+FFFD.
    const texts = given.map((text) => Buffer.from(text).toString());
    const of = { task, label, attribution };
    return this.#called([input], callOptions, (inputs, call) => this.#native.explain(inputs, of, call), async (explained) => {
      const { taskId, labelId, value, baseValue, starts, ends, ofPair, attributions, unreadWords } = explained;
      /** @type {Word[]} */
      const words = [];
      await sliced([...starts], callOptions.signal, (start, i) => {
        const text = texts[ofPair[i]].slice(start, ends[i]);
        words.push({ text, attribution: attributions[i], start, end: ends[i], isOfPair: ofPair[i] !== 0 });
      });
      const prediction = predictionOf(explained.answers, 0, this.#tasks[taskId]);
      const explainedLabel = this.#tasks[taskId].labels[labelId];
      return { label: explainedLabel, words, value, baseValue, attribution: explained.attribution, unreadWords, prediction };
    });
  }

  /**
   * Ends the classifier: calls that run fail with `CANCELLED`. The promise is settled when its memory is free.
   * @returns {Promise<void>}
   */
  close() {
    return (this.#closed ??= this.#native.close());
  }

  /**
   * @param {Input[]} inputs
   * @param {CallOptions} [options]
   * @returns {Promise<Prediction[]>}
   */
  async #run(inputs, { topK, ...options } = {}) {
    if (!(topK === undefined || (Number.isInteger(topK) && topK > 0))) throw outOfRange('topK', '1, 2, 3, …', topK);
    // The library reads 32 bits of it: no task has so many labels.
    const ranked = topK && Math.min(topK, 2 ** 32 - 1);
    return this.#called(inputs, options, (texts, call) => this.#native.submit(texts, { ...call, topK: ranked }), async (answers) => {
      /** @type {Prediction[]} */
      const predictions = [];
      await sliced(inputs, options.signal, (_, row) => {
        const [first, ...further] = this.#tasks.map((task, index) => predictionOf(answers[index], row, task, topK));
        if (further.length) first.further = Object.fromEntries(further.map((other) => [String(other.task), other]));
        predictions.push(first);
      });
      return predictions;
    });
  }

  /**
   * What `read` makes of what the call answers that `begin` begins.
   * @template T
   * @param {Input[]} inputs
   * @param {CallOptions} options
   * @param {(texts: any, call: object) => any} begin
   * @param {(answer: any) => T | Promise<T>} read
   * @returns {Promise<T>}
   */
  async #called(inputs, { signal, timeoutMs, truncation, ...unknown }, begin, read) {
    for (const name of Object.keys(unknown)) throw new NimbertError('SETTING', `expected an option of this call, found ${name}`);
    if (!['undefined', 'number'].includes(typeof timeoutMs)) throw wrongType('a number for timeoutMs', timeoutMs);
    if (!(timeoutMs === undefined || timeoutMs >= 0)) throw outOfRange('timeoutMs', '0 or more', timeoutMs);
    if (!['undefined', 'string'].includes(typeof truncation)) throw wrongType('a string for truncation', truncation);
    if (this.#closed) throw new NimbertError('CLOSED', 'the classifier is closed');
    /** @type {any} */
    let call;
    const began = performance.now();
    const cancel = () => call?.cancel();
    signal?.addEventListener('abort', cancel);
    if (this.#calls++ === 0) busy.add(this);
    try {
      const texts = new native.Inputs();
      await sliced(inputs, signal, (input) => (isText(input) ? texts.push(input) : texts.push(...pairOf(input))));
      if (this.#closed) throw new NimbertError('CANCELLED', 'the classifier was closed');
      // Until now there was no call to cancel.
      signal?.throwIfAborted();
      let answer;
      // Many texts take their time until they are there.
      const left = timeoutMs === undefined ? undefined : Math.max(0, timeoutMs - (performance.now() - began));
      [call, answer] = begin(texts, { timeoutMs: left, truncation });
      return await read(await answer);
    } catch (error) {
      signal?.throwIfAborted();
      throw ours(error);
    } finally {
      if (--this.#calls === 0) busy.delete(this);
      signal?.removeEventListener('abort', cancel);
    }
  }
}

/**
 * @param {string | Uint8Array} source
 * @param {OpenOptions} [options]
 */
async function open(source, options = {}) {
  if (!native.telemetryIsDecided()) {
    // What a worker sets in process.env does not reach the process's environment.
    const remedy = 'load nimbert in the main thread first, or start with ORT_DISABLE_TELEMETRY=1';
    process.emitWarning(`ONNX Runtime may send usage data to its makers: ${remedy}`, 'NimbertWarning');
  }
  try {
    return await native.open(source, settings(options));
  } catch (error) {
    throw ours(error);
  }
}

/**
 * Calls `step` with every item; the event loop has its turn in between.
 * @template T
 * @param {T[]} items
 * @param {AbortSignal | undefined} signal
 * @param {(item: T, index: number) => void} step
 */
async function sliced(items, signal, step) {
  signal?.throwIfAborted();
  let began = performance.now();
  for (let i = 0; i < items.length; i++) {
    step(items[i], i);
    if (performance.now() - began > SLICE_MS) {
      await turn();
      signal?.throwIfAborted();
      began = performance.now();
    }
  }
}

/** @param {unknown} value */
function isText(value) {
  return typeof value === 'string' || isUint8Array(value);
}

/** @param {Input} input */
function pairOf(input) {
  if (Array.isArray(input) && input.length === 2 && input.every(isText)) return input;
  throw wrongType('a string, a Buffer, or an array of two of them', input);
}

/**
 * What the library answers texts by; `blank` has a score for every label: to copy it is four times faster than to make it anew.
 * @param {{ name?: string, labels: string[] }} task
 * @returns {{ name: string | null, labels: readonly string[], blank: Record<string, number> }}
 */
function taskOf({ name, labels }) {
  const blank = Object.fromEntries(labels.map((label) => [label, NaN]));
  return { name: name ?? null, labels: Object.freeze(labels), blank };
}

/**
 * One input's row of what the library answered to a task for all.
 * @param {any} answers
 * @param {number} row
 * @param {ReturnType<typeof taskOf>} task
 * @param {number} [topK]
 * @returns {Prediction}
 */
function predictionOf(answers, row, { name, labels, blank }, topK) {
  const begin = row * labels.length;
  const scores = { ...blank };
  // Of its final size, as it is not if it grows.
  const logits = new Array(labels.length);
  for (let id = 0; id < labels.length; id++) {
    scores[labels[id]] = answers.scores[begin + id];
    logits[id] = answers.logits[begin + id];
  }
  const holding = labels.filter((_, id) => answers.holds[begin + id]);
  const top = [];
  const ranked = Math.min(topK ?? 1, labels.length);
  for (let i = row * ranked; i < (row + 1) * ranked; i++) {
    const label = labels[answers.ranking[i]];
    top.push({ label, score: scores[label] });
  }
  const { label, score } = top[0];
  const prediction = {
    label,
    score,
    scores,
    logits,
    labels: holding,
    abstained: answers.abstained[row] !== 0,
    set: answers.set.length ? labels.filter((_, id) => answers.set[begin + id]) : null,
    distance: answers.distances.length ? answers.distances[row] : null,
    unknown: answers.unknown[row] !== 0,
    task: name,
    further: {},
  };
  return topK ? { ...prediction, top } : prediction;
}

/**
 * Options as the library reads them: names in its spelling, values as text.
 * @param {OpenOptions} options
 * @returns {[string, string][]}
 */
function settings(options) {
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const named = Object.fromEntries(given);
  const found = 'ortLib' in named ? {} : { ortLib: installedLibrary() };
  const all = { cache: 'auto', ...found, ...named };
  return Object.entries(all).flatMap(([name, values]) => {
    // No key at all is none that must have signed: it must not open what no key was asked of.
    if (Array.isArray(values) && !values.length && name in options) throw wrongType(`a value for ${name}`, values);
    return [values].flat().map((value) => {
      if (!['string', 'number', 'boolean'].includes(typeof value)) throw wrongType(`a value for ${name}`, value);
      return /** @type {[string, string]} */ ([name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`), String(value)]);
    });
  });
}

/** The library of the package onnxruntime-node, unless there is none or the environment names another. */
function installedLibrary() {
  if (process.env.ORT_DYLIB_PATH) return [];
  /** @type {string} */
  let folder;
  /** @type {string[]} */
  let files;
  try {
    folder = path.join(path.dirname(require.resolve('onnxruntime-node/package.json')), 'bin');
    // bin/napi-v6/linux/x64/libonnxruntime.so.1
    files = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  } catch {
    return [];
  }
  const name = new RegExp(`${process.platform}.${process.arch}.(lib)?onnxruntime\\.[^/\\\\]*$`);
  return files.filter((file) => name.test(file)).map((file) => path.join(folder, file)).slice(0, 1);
}

/**
 * An error of the compiled module's as one of ours; others as they are.
 * @param {any} error
 * @returns {unknown}
 */
function ours(error) {
  const { constructor, code, message } = error;
  if (constructor !== Error) return error;
  const hint = code === 'LIBRARY_NOT_FOUND' ? '\nIn Node.js: npm install onnxruntime-node' : '';
  return new NimbertError(code, message + hint);
}

/**
 * @param {string} expected
 * @param {unknown} value
 */
function wrongType(expected, value) {
  const found = value === null ? 'null' : Array.isArray(value) ? 'an array' : typeof value;
  return Object.assign(new TypeError(`expected ${expected}, found ${found}`), { code: 'ERR_INVALID_ARG_TYPE' });
}

/**
 * @param {string} name
 * @param {string} expected
 * @param {unknown} value
 */
function outOfRange(name, expected, value) {
  return Object.assign(new RangeError(`${name}: expected ${expected}, found ${value}`), { code: 'ERR_OUT_OF_RANGE' });
}

module.exports = { Classifier, NimbertError };
