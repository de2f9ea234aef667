//! What the tests of the program's features share.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A path inside of the workspace.
pub(crate) fn workspace(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

/// A bundle with a tiny model.
pub(crate) fn bundle() -> PathBuf {
    workspace("tests/data/bundle-1")
}

/// The library that setup has fetched.
pub(crate) fn library() -> PathBuf {
    let name = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    workspace(".setup/lib").join(name)
}

/// A command of the program for [`bundle`], with the library that setup has fetched.
pub(crate) fn nimbert(command: &str) -> Command {
    nimbert_of(command, &bundle())
}

/// The same for another bundle.
pub(crate) fn nimbert_of(command: &str, bundle: &Path) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_nimbert"));
    program.env("ORT_DYLIB_PATH", library());
    program.env("NIMBERT_CACHE", workspace(".setup/cache"));
    program.arg(command).arg(bundle);
    program
}
