//! What the program asks of the system: no host is looked up or connected to, and nothing is written outside of the cache.
#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The library that says what a process does, compiled into `folder`.
fn tracer(folder: &Path) -> PathBuf {
    let library = folder.join("trace.so");
    let source = common::workspace("tests/data/trace_calls.c");
    let mut compile = Command::new("cc");
    compile
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl");
    assert!(compile.status().expect("a C compiler").success());
    library
}

/// What a command does, a line each. The cache and the user's folder are new ones below `folder`.
fn calls(command: &mut Command, folder: &Path, run: impl FnOnce(&mut Command)) -> Vec<String> {
    let log = folder.join("calls");
    // One that is there already would not be written to.
    let _ = fs::remove_file(&log);
    // Nothing is inherited: ONNX Runtime sends nothing where variables tell of a CI service, and would prove nothing there.
    for (name, _) in std::env::vars_os() {
        if !command.get_envs().any(|(set, _)| set == name) {
            command.env_remove(name);
        }
    }
    command.env("LD_PRELOAD", tracer(folder)).env("TRACE_CALLS", &log).env("HOME", folder.join("home"));
    command.env("NIMBERT_CACHE", folder.join("cache")).env_remove("XDG_CACHE_HOME");
    run(command);
    fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nobody_is_called_and_only_the_cache_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let only_cache = |calls: &[String]| {
        for call in calls {
            let path = call.strip_prefix("write ").unwrap_or_else(|| panic!("{call}"));
            assert!(path.starts_with(folder.join("cache").to_str().unwrap()), "{call}");
        }
    };
    for (command, texts, is_cached) in
        [("classify", &["a great film"][..], true), ("verify", &[], false), ("info", &[], false)]
    {
        let mut command = common::nimbert(command);
        command.args(texts).env_remove("ORT_DISABLE_TELEMETRY");
        let calls = calls(&mut command, folder, succeed);
        only_cache(&calls);
        assert_eq!(!calls.is_empty(), is_cached, "{calls:?}");
    }
    let mut serve = common::nimbert("serve");
    serve.args(["--listen", "127.0.0.1:0"]).env_remove("ORT_DISABLE_TELEMETRY");
    let calls = calls(&mut serve, folder, |serve| {
        let mut child = serve.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "{line}");
        child.kill().unwrap();
        child.wait().unwrap();
    });
    let (sockets, others): (Vec<String>, Vec<String>) = calls.into_iter().partition(|call| call == "socket network");
    // The one on which it listens.
    assert_eq!(sockets.len(), 1);
    only_cache(&others);
}

/// Were it not told, ONNX Runtime 1.31 from PyPI would write a device's id: so what is traced above would be seen.
#[test]
fn what_is_written_elsewhere_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = common::nimbert("classify");
    command.arg("a great film").env("ORT_DISABLE_TELEMETRY", "0");
    let calls = calls(&mut command, dir.path(), succeed);
    assert!(calls.iter().any(|call| call.contains("/home/.cache/Microsoft")), "{calls:?}");
}
