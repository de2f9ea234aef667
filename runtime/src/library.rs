//! Finds ONNX Runtime's shared library and starts its environment, once a process.
//!
//! A library that was named — by option or environment variable — is the only one tried: to take another one in silence
//! would hide a wrong path. Without a name, the folder of the executable comes first (how an application ships), then
//! `lib` beside that folder (how archives and packages install), the Python environment whose program it is, then the
//! setup's folder (how a checkout runs), then the system's own search.

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
/// The environment variable that keeps ONNX Runtime's library, as PyPI has it since 1.31, from looking up a host and
/// writing a device's id below the user's folder: `1`, set before the library is loaded. That it was told by its
/// interface does not suffice. Our programs set it first of all, when no other thread can read the environment; who
/// links this crate does the same in `main`, or starts the process with it.
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
        let path = match path {
            Ok(path) => path,
            Err(reason) => {
                tried.push(format!("{origin} {reason}"));
                continue;
            }
        };
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

/// A file to be tried: what says so, and the file, or why there is none.
type Candidate = (&'static str, std::result::Result<PathBuf, String>);

/// Where to look, in order.
fn candidates(named: Option<&Path>) -> Vec<Candidate> {
    // ort resolves a relative path against the executable; a user means the working directory.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let variable = std::env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty());
    match (named, variable) {
        (Some(path), _) => vec![("named by --ort-lib or ort_lib,", Ok(absolute(path)))],
        (None, Some(path)) => vec![(LIBRARY_VARIABLE, Ok(absolute(Path::new(&path))))],
        (None, None) => unnamed(std::env::current_exe()),
    }
}

/// Where to look for a library that nobody has named.
fn unnamed(executable: std::io::Result<PathBuf>) -> Vec<Candidate> {
    let file_name = format!("{DLL_PREFIX}onnxruntime{DLL_SUFFIX}");
    let system = match &executable {
        Ok(_) => Ok(file_name.clone().into()),
        // ort would look for the executable, too, and panic.
        Err(reason) => Err(format!("{file_name}: not tried, since the executable is not known: {reason}")),
    };
    let mut candidates = Vec::new();
    if let Some(executable) = executable.ok().or_else(started_as) {
        if let Some(folder) = executable.parent() {
            candidates.push(("beside the executable,", Ok(folder.join(&file_name))));
            // First in the folder of ours: the other may be the system's.
            let installed = ["../lib/nimbert", "../lib"].map(|lib| folder.join(lib).join(&file_name));
            candidates.extend(installed.map(|path| ("installed with the executable,", Ok(path))));
            let packaged = in_python_environment(folder, &file_name);
            candidates.extend(packaged.map(|path| ("in the Python environment,", Ok(path))));
        }
        let target = executable.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "target"));
        if let Some(checkout) = target.and_then(Path::parent) {
            candidates.push(("in the setup's folder,", Ok(checkout.join(SETUP_FOLDER).join(&file_name))));
        }
    }
    candidates.push(("in the system's folders,", system));
    candidates
}

/// The executable by the path that it was started with, if it was one: all that is known where /proc is not mounted.
fn started_as() -> Option<PathBuf> {
    let name = PathBuf::from(std::env::args_os().next()?);
    if name.components().count() > 1 { std::path::absolute(name).ok() } else { None }
}

/// The library of the package onnxruntime, where the executable is one of a Python environment's programs. Its name may
/// have a version behind.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_known_executable_the_systems_folders_are_not_tried() {
        let candidates = unnamed(Err(std::io::Error::other("no /proc")));
        // Tests are started by their path.
        assert_eq!(candidates[0].0, "beside the executable,");
        let (origin, last) = candidates.last().unwrap();
        let reason = last.as_ref().unwrap_err();
        assert!(*origin == "in the system's folders," && reason.contains("no /proc"), "{origin} {reason}");
    }
}
