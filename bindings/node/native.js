'use strict';

// Finds the compiled module: beside this file, where a checkout builds it, or in the package of this platform, which
// npm installs with this one.

/** The names that this platform's module may have, as napi-rs calls platforms. */
function platforms() {
  const name = `${process.platform}-${process.arch}`;
  switch (process.platform) {
    case 'linux':
      // npm installs the one that fits the C library.
      return [`${name}-gnu`, `${name}-musl`];
    case 'win32':
      return [`${name}-msvc`];
    default:
      return [name];
  }
}

function load() {
  const names = platforms();
  for (const place of names.flatMap((name) => [`./nimbert.${name}.node`, `@nimbert/nimbert-${name}`])) {
    try {
      return require(place);
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'MODULE_NOT_FOUND') throw error;
    }
  }
  const packages = names.map((name) => `@nimbert/nimbert-${name}`).join(' or ');
  throw new Error(`expected the package ${packages}, an optional dependency of @nimbert/nimbert, found none`);
}

module.exports = load();
