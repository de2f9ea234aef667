'use strict';

// What the tests share. `cargo xtask test` sets the environment:
//   NIMBERT_TEST_BUNDLE   a bundle's folder
//   NIMBERT_TEST_FILE     the same as one file
//   NIMBERT_PROGRAM       the program `nimbert`
//   NIMBERT_TEST_PACKAGE  the package that is tested [default: this checkout's]
//   ORT_DYLIB_PATH        ONNX Runtime's library

const assert = require('node:assert');
const { execFileSync, spawn } = require('node:child_process');
const { once } = require('node:events');
const { mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { text } = require('node:stream/consumers');

const PACKAGE = path.resolve(process.env.NIMBERT_TEST_PACKAGE ?? path.join(__dirname, '..'));
const [BUNDLE, FILE, PROGRAM] = ['NIMBERT_TEST_BUNDLE', 'NIMBERT_TEST_FILE', 'NIMBERT_PROGRAM'].map((name) => {
  assert.ok(process.env[name], `expected ${name} in the environment`);
  return path.resolve(process.env[name]);
});
const MANIFEST = JSON.parse(readFileSync(path.join(BUNDLE, 'nimbert.json'), 'utf8'));

/** Opens the bundle so that it is slow: one thread, one text after the other. */
const SLOW = { threads: 1, parallelism: 'latency', batchSize: 1 };

/** `count` texts of `words` / 2 to `words` words, the same at every run. */
function texts(count, words = 20) {
  const vocabulary = 'a the movie plot is was not very good bad dull brilliant boring lovely and but acting'.split(' ');
  let state = 1;
  const random = (limit) => {
    state = (state * 48271) % 0x7fffffff;
    return state % limit;
  };
  const text = () => Array.from({ length: words / 2 + random(1 + words / 2) }, () => vocabulary[random(17)]).join(' ');
  return Array.from({ length: count }, text);
}

/** Makes a folder that is removed after the test. */
function folder(test) {
  const made = mkdtempSync(path.join(tmpdir(), 'nimbert-'));
  test.after(() => rmSync(made, { recursive: true }));
  return made;
}

/** What the program answers for texts of one line each. */
function commandLine(test, lines) {
  const input = path.join(folder(test), 'input.txt');
  writeFileSync(input, lines.map((line) => `${line}\n`).join(''));
  const output = execFileSync(PROGRAM, ['classify', BUNDLE, '--input', input, '--json'], { maxBuffer: 1 << 28 });
  return output.toString().trimEnd().split('\n').map((line) => JSON.parse(line));
}

/** Six digits are what the program writes, and batches of another size may differ by 1e-4. */
function assertSameAnswer(prediction, answer) {
  assert.strictEqual(prediction.label, answer.label);
  assert.deepStrictEqual(Object.keys(prediction.scores), Object.keys(answer.scores));
  for (const [label, score] of Object.entries(answer.scores)) {
    assert.ok(Math.abs(prediction.scores[label] - score) < 1e-4, `${label}: ${prediction.scores[label]}, not ${score}`);
  }
}

/** Runs a script in a process of its own; it may take half a minute. */
async function runScript(script, env = {}) {
  const child = spawn(process.execPath, ['-e', script], { env: { ...process.env, ...env }, timeout: 30_000 });
  const closed = once(child, 'close');
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  const [status, signal] = await closed;
  return { status, signal, stdout, stderr };
}

/** Runs a script that has `Classifier`, `BUNDLE`, `SLOW` and `texts`. */
function runProgram(script, env) {
  const head = `const { Classifier } = require(${JSON.stringify(PACKAGE)});
    const [BUNDLE, SLOW] = ${JSON.stringify([BUNDLE, SLOW])};
    ${texts}\n`;
  return runScript(head + script, env);
}

module.exports = {
  ...require(PACKAGE),
  PACKAGE,
  BUNDLE,
  FILE,
  MANIFEST,
  PROGRAM,
  SLOW,
  texts,
  folder,
  commandLine,
  assertSameAnswer,
  runProgram,
  runScript,
};
