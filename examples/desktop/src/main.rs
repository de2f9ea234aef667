//! `nimbert-desktop [BUNDLE] [ROWS]`.

#![cfg_attr(not(debug_assertions), windows_subsystem = "windows")]

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use eframe::{NativeOptions, egui::ViewportBuilder};
use nimbert::{Options, TELEMETRY_VARIABLE, compiled};
use nimbert_desktop::app::{App, Settings};

const USAGE: &str = "\
Usage: nimbert-desktop [BUNDLE] [ROWS] [--text-column NAME]

  BUNDLE               a model: a folder, or a .nimbert file
  ROWS                 texts to label: .csv, .tsv, .jsonl, .json or .txt, also .gz or .zst
  --text-column NAME   column or key of the text [default: text]

ORT_DYLIB_PATH names ONNX Runtime's library, where it lies neither beside the program nor among the system's.";

fn main() -> ExitCode {
    // SAFETY: the process has no other thread yet.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var(TELEMETRY_VARIABLE, "1");
    }
    let settings = match arguments(std::env::args_os().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            match HAS_TERMINAL {
                true => println!("{USAGE}"),
                false => tell(USAGE),
            }
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            tell(&format!("nimbert-desktop: {message}\n\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    let viewport = ViewportBuilder::default()
        .with_title("nimbert")
        .with_app_id("nimbert-desktop")
        .with_inner_size([960.0, 760.0])
        .with_min_inner_size([480.0, 400.0]);
    let options = NativeOptions { viewport, ..NativeOptions::default() };
    let run = eframe::run_native(
        "nimbert-desktop",
        options,
        Box::new(|creation| Ok(Box::new(App::new(&creation.egui_ctx, settings)))),
    );
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("nimbert-desktop: no window: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// As a program for Windows it has none: see the head of this file.
const HAS_TERMINAL: bool = cfg!(not(all(windows, not(debug_assertions))));

/// Tells why there is no window.
fn tell(message: &str) {
    if HAS_TERMINAL {
        eprintln!("{message}");
    } else {
        rfd::MessageDialog::new().set_title("nimbert").set_description(message).show();
    }
}

/// What was asked for; nothing if it was help.
fn arguments(arguments: impl Iterator<Item = OsString>) -> Result<Option<Settings>, String> {
    let mut settings = Settings {
        options: Options { cache: compiled::default_cache(), ..Options::default() },
        bundle: None,
        rows: None,
        text_column: "text".to_owned(),
        measure: false,
    };
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--help" | "-h") => return Ok(None),
            Some("--measure") => settings.measure = true,
            Some("--text-column") => {
                let name = arguments.next().and_then(|name| name.into_string().ok());
                settings.text_column = name.ok_or("--text-column: expected a name, found none")?;
            }
            Some(other) if other.starts_with("--") => {
                return Err(format!("expected an option of those below, found {other}"));
            }
            _ if settings.bundle.is_none() => settings.bundle = Some(PathBuf::from(argument)),
            _ if settings.rows.is_none() => settings.rows = Some(PathBuf::from(argument)),
            _ => return Err(format!("expected a bundle and rows, found also {}", argument.display())),
        }
    }
    if settings.measure && settings.bundle.is_none() {
        return Err("--measure: expected a bundle, found none".to_owned());
    }
    Ok(Some(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Option<Settings>, String> {
        arguments(words.iter().map(OsString::from))
    }

    #[test]
    fn a_bundle_rows_and_a_column() {
        let settings = parse(&["b", "--text-column", "body", "r.csv"]).unwrap().unwrap();
        assert_eq!((settings.bundle, settings.rows), (Some("b".into()), Some("r.csv".into())));
        assert_eq!(settings.text_column, "body");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(parse(&["--nothing"]).unwrap_err().contains("--nothing"));
        assert!(parse(&["a", "b", "c"]).unwrap_err().contains("found also c"));
        assert!(parse(&["--text-column"]).unwrap_err().contains("expected a name"));
        assert!(parse(&["--measure"]).unwrap_err().contains("expected a bundle"));
    }
}
