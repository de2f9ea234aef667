//! Finds ONNX Runtime's shared library and starts its environment, once a process.
//!
//! A library that was named — by option or environment variable — is the only one tried: to take another one in silence
//! would hide a wrong path. Without a name, the folder of the executable comes first (how an application ships), then
//! the Python environment whose program it is, then the setup's folder (how a checkout runs), then the system's own search.

#![allow(unsafe_code, reason = "the system's loader says why a library does not load")]

use std::{
    env::consts::{DLL_PREFIX, DLL_SUFFIX},
    path::{Path, PathBuf},
    sync::Mutex,
};

use ort::environment::Environment;

use crate::error::{Error, Result};

/// The environment variable that names the library's file.
pub const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";
/// The environment variable that keeps ONNX Runtime's library, as PyPI has it since 1.31, from looking up a host and writing
/// a device's id below the user's folder: `1`, set before the library is loaded. That it was told by its interface does not
/// suffice. Our programs set it first of all, when no other thread can read the environment; who links this crate does the
/// same in `main`, or starts the process with it.
pub const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
/// The folder, beside `target`, into which `cargo xtask setup` puts the library.
const SETUP_FOLDER: &str = ".setup/lib";

/// ONNX Runtime allows one environment a process; it has to outlive every session.
static ENVIRONMENT: Mutex<Option<Environment>> = Mutex::new(None);

/// Loads ONNX Runtime's library, as the first session would: so that a missing one is known before long work begins.
///
/// # Errors
/// [`Error::LibraryNotFound`] with all that was tried.
pub fn load_library(named: Option<&Path>) -> Result<()> {
    environment(named).map(|_| ())
}

/// The process's environment. The first call loads the library: `named`, or the first that is found; later calls get
/// the same one, whatever they name.
///
/// # Errors
/// [`Error::LibraryNotFound`] with all that was tried.
pub(crate) fn environment(named: Option<&Path>) -> Result<Environment> {
    let mut environment = ENVIRONMENT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(environment) = &*environment {
        return Ok(environment.clone());
    }
    let mut tried = Vec::new();
    for (origin, path) in candidates(named) {
        let reason = match ort::init_from(&path) {
            Ok(builder) => match builder.with_name("nimbert").with_telemetry(false).build() {
                Ok(built) => return Ok(environment.insert(built).clone()),
                Err(error) => error.to_string(),
            },
            Err(error) => system_reason(&path).unwrap_or_else(|| error.to_string()),
        };
        tried.push(format!("{origin} {}: {reason}", path.display()));
    }
    Err(Error::LibraryNotFound { tried })
}

/// Why the system does not load a library; none if it does. ort only says that it could not.
fn system_reason(path: &Path) -> Option<String> {
    // SAFETY: the file was named, or found, as a library that is to run in this process, and ort has tried to load it
    // already: code that runs when it is loaded is as trusted as the library itself.
    let loaded = unsafe { libloading::Library::new(path) };
    loaded.err().map(|error| {
        let reason = std::error::Error::source(&error).map(ToString::to_string);
        reason.unwrap_or_else(|| error.to_string())
    })
}

/// Where to look, in order: what says so, and the file.
fn candidates(named: Option<&Path>) -> Vec<(&'static str, PathBuf)> {
    // ort resolves a relative path against the executable; a user means the working directory.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Some(path) = named {
        return vec![("named by --ort-lib or ort_lib,", absolute(path))];
    }
    if let Some(path) = std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        return vec![(LIBRARY_VARIABLE, absolute(Path::new(&path)))];
    }
    let file_name = format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}");
    let mut candidates = Vec::new();
    if let Ok(executable) = std::env::current_exe() {
        if let Some(folder) = executable.parent() {
            candidates.push(("beside the executable,", folder.join(&file_name)));
            let packaged = in_python_environment(folder, &file_name);
            candidates.extend(packaged.map(|path| ("in the Python environment,", path)));
        }
        let target = executable.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "target"));
        if let Some(checkout) = target.and_then(Path::parent) {
            candidates.push(("in the setup's folder,", checkout.join(SETUP_FOLDER).join(&file_name)));
        }
    }
    candidates.push(("in the system's folders,", file_name.into()));
    candidates
}

/// The library of the package onnxruntime, where the executable is one of a Python environment's programs. Its name may have a
/// version behind.
fn in_python_environment(programs: &Path, file_name: &str) -> Option<PathBuf> {
    let environment = programs.parent()?;
    let interpreters = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
    let is_python = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("python3");
    let unix = interpreters.filter(is_python).map(|entry| entry.path());
    unix.chain([environment.join("Lib")]).find_map(|folder| {
        let libraries = std::fs::read_dir(folder.join("site-packages/onnxruntime/capi")).ok()?.flatten();
        let mut libraries = libraries.filter(|entry| entry.file_name().to_string_lossy().starts_with(file_name));
        libraries.next().map(|entry| entry.path())
    })
}
