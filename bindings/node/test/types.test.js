'use strict';

// index.d.ts is made of index.js: npm ci in this folder brings the compiler.

const assert = require('node:assert');
const { spawnSync } = require('node:child_process');
const { readFileSync } = require('node:fs');
const path = require('node:path');
const { test } = require('node:test');

const { folder } = require('./common.js');

function tsc(project, ...options) {
  const command = [require.resolve('typescript/bin/tsc'), '--project', path.join(__dirname, project), ...options];
  const { status, stdout } = spawnSync(process.execPath, command);
  assert.strictEqual(status, 0, stdout.toString());
}

test('index.js is what index.d.ts says', (t) => {
  const made = folder(t);
  tsc('tsconfig.package.json', '--outDir', made);
  const [expected, found] = [path.join(made, 'index.d.ts'), path.join(__dirname, '..', 'index.d.ts')];
  const remedy = 'npm run types, in bindings/node/test';
  assert.strictEqual(readFileSync(found, 'utf8'), readFileSync(expected, 'utf8'), remedy);
});

test('an application compiles strictly', () => tsc('tsconfig.json'));
