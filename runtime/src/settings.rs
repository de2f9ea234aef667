//! Options by name and text, as command lines, configuration files and other languages have them: one name, one spelling and
//! one error for all.

use std::{path::PathBuf, str::FromStr, time::Duration};

use crate::{
    bundle::{PublicKey, Verify},
    classifier::{Options, Parallelism},
    compiled::default_cache,
    error::{Error, Result},
    explain::Attribution,
    graph::Operators,
    tokenizer::{Truncation, TruncationSide},
};

/// The names of [`Options::set`], and what each may be.
pub const SETTINGS: [(&str, &str); 20] = [
    ("device", "cpu, cuda, cuda:N, tensorrt, tensorrt:N or auto"),
    ("threads", "a number from 1 to 1024"),
    ("variant", "the name of a graph in the bundle"),
    ("parallelism", "auto, latency or throughput"),
    ("batch_size", "a number of texts from 1"),
    ("max_batch_tokens", "a number of tokens from 1"),
    ("max_wait_ms", "a number of milliseconds"),
    ("queue_limit", "a number of texts from 1"),
    ("memory_limit", SIZE),
    ("gpu_memory_limit", SIZE),
    ("cache", "a folder, auto (that of the program nimbert), or none"),
    ("verify", "always, once or never"),
    ("public_key", "a public key's file, or its line of base64"),
    ("operators", "known or any"),
    ("standard_operators", "true or false"),
    ("ort_lib", "the path of ONNX Runtime's library"),
    ("spinning", "true or false"),
    ("fast_math", "true or false"),
    ("allow_cpu", "true or false"),
    ("profile", "a path, to which number, time and .json are appended"),
];

const SIZE: &str = "a size such as 300MB, 2GB or 64MiB";

impl Options {
    /// Sets one option by its name, one of [`SETTINGS`]. `public_key` adds a key to those that were given.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is no such option, or it cannot have that value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let Some((_, expected)) = SETTINGS.iter().find(|(known, _)| *known == name) else {
            let names = SETTINGS.map(|(known, _)| known).join(", ");
            return Err(setting("options", format!("one of {names}"), name));
        };
        let session = &mut self.session;
        let wrong = || setting(name, *expected, value);
        let number = |least: u64| value.parse().ok().filter(|number: &u64| *number >= least).ok_or_else(wrong);
        let count = || number(1).and_then(|number| usize::try_from(number).map_err(|_| wrong()));
        let size = || parse_size(value).ok_or_else(wrong);
        match name {
            "device" => session.device = value.parse().map_err(|_| wrong())?,
            "threads" => session.threads = Some(count()?).filter(|threads| *threads <= 1024).ok_or_else(wrong)?.into(),
            "variant" => self.variant = Some(value.to_owned()),
            "parallelism" => self.parallelism = value.parse().map_err(|_| wrong())?,
            "batch_size" => self.batch_size = Some(count()?),
            "max_batch_tokens" => self.max_batch_tokens = Some(count()?),
            "max_wait_ms" => self.max_wait = Duration::from_millis(number(0)?),
            "queue_limit" => self.queue_limit = Some(count()?),
            "memory_limit" => self.memory_limit = Some(size()?),
            "gpu_memory_limit" => session.gpu.memory_limit = Some(size()?),
            "cache" => {
                self.cache = match value {
                    "" => return Err(wrong()),
                    "none" => None,
                    "auto" => default_cache(),
                    folder => Some(PathBuf::from(folder)),
                }
            }
            "verify" => self.verify = value.parse().map_err(|_| wrong())?,
            "public_key" => self.require_signature.push(PublicKey::of(value)?),
            "operators" => session.operators = value.parse().map_err(|_| wrong())?,
            "standard_operators" => session.standard_operators = value.parse().map_err(|_| wrong())?,
            "ort_lib" => session.ort_lib = Some(PathBuf::from(value)),
            "spinning" => session.spinning = value.parse().map_err(|_| wrong())?,
            "fast_math" => session.fast_math = value.parse().map_err(|_| wrong())?,
            "allow_cpu" => session.gpu.allow_cpu = value.parse().map_err(|_| wrong())?,
            "profile" => session.profile = Some(PathBuf::from(value)),
            _ => unreachable!("every name of the list has a line here"),
        }
        Ok(())
    }
}

fn setting(name: &str, expected: impl Into<String>, got: &str) -> Error {
    Error::Setting { name: name.to_owned(), expected: expected.into(), got: format!("{got:?}") }
}

/// A number of bytes as people write it: 300MB, 2.5GB, 64MiB, 800k; none for anything else, and for less than 1.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    let bytes = match number.contains('.') {
        false => number.parse::<u64>().ok()?.checked_mul(unit)?,
        // What is too large becomes the largest number, which no size is.
        true => (number.parse::<f64>().ok()? * unit as f64).round() as u64,
    };
    (1..u64::MAX).contains(&bytes).then_some(bytes)
}

/// How a type of few values is spelled.
macro_rules! spelled {
    ($type:ty, $expected:literal, $($text:literal => $variant:ident $(($of:path))?),+) => {
        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> std::result::Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant $(($of))?),)+
                    _ => Err(format!(concat!("expected ", $expected, ", found {:?}"), text)),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $(Self::$variant $(($of))? => $text,)+
                })
            }
        }
    };
}

spelled!(Verify, "always, once or never", "always" => Always, "once" => Once, "never" => Never);
spelled!(Operators, "known or any", "known" => Known, "any" => Any);
spelled!(
    Parallelism,
    "auto, latency or throughput",
    "auto" => Auto,
    "latency" => Latency,
    "throughput" => Throughput
);
spelled!(
    Truncation,
    "bundle, left, right or refuse",
    "bundle" => OfBundle,
    "left" => At(TruncationSide::Left),
    "right" => At(TruncationSide::Right),
    "refuse" => Refuse
);
spelled!(
    Attribution,
    "auto, leave-one-out or shapley",
    "auto" => Auto,
    "leave-one-out" => LeaveOneOut,
    "shapley" => Shapley
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    #[test]
    fn every_option_has_a_value_that_it_takes_and_most_have_one_that_they_do_not() {
        // Of the right form, and nobody's.
        let key = &format!("RWQ{}", "A".repeat(53));
        let values = [
            ("device", "cuda:1", "gpu"),
            ("threads", "4", "0"),
            ("variant", "cpu-fp32", ""),
            ("parallelism", "latency", "fast"),
            ("batch_size", "8", "0"),
            ("max_batch_tokens", "512", "many"),
            ("max_wait_ms", "0", "-1"),
            ("queue_limit", "10", "0"),
            ("memory_limit", "300MB", "0MB"),
            ("gpu_memory_limit", "2 GiB", "2 apples"),
            ("cache", "auto", ""),
            ("verify", "never", "Never"),
            ("public_key", key, "nonsense"),
            ("operators", "any", "all"),
            ("standard_operators", "true", "1"),
            ("ort_lib", "libonnxruntime.so", ""),
            ("spinning", "true", "yes"),
            ("fast_math", "true", "fast"),
            ("allow_cpu", "false", "no"),
            ("profile", "trace", ""),
        ];
        assert_eq!(values.map(|(name, ..)| name), SETTINGS.map(|(name, _)| name));
        let mut options = Options::default();
        for (name, right, wrong) in values {
            options.set(name, right).unwrap();
            if !matches!(name, "variant" | "ort_lib" | "profile") {
                let error = options.set(name, wrong).unwrap_err();
                assert!(name == "public_key" || matches!(error, Error::Setting { .. }), "{error}");
            }
        }
        assert_eq!((options.session.device, options.session.threads), (Device::Cuda(1), Some(4)));
        assert_eq!((options.memory_limit, options.session.gpu.memory_limit), (Some(300_000_000), Some(2 << 30)));
        assert_eq!((options.verify, options.require_signature.len()), (Verify::Never, 1));
        let error = options.set("thread", "4").unwrap_err().to_string();
        assert!(error.contains("one of device, threads") && error.contains("\"thread\""), "{error}");
    }

    #[test]
    fn what_is_spelled_is_parsed() {
        for attribution in [Attribution::Auto, Attribution::LeaveOneOut, Attribution::Shapley] {
            assert_eq!(attribution.name().parse(), Ok(attribution));
        }
        let error = "Shapley".parse::<Attribution>().unwrap_err();
        assert_eq!(error, "expected auto, leave-one-out or shapley, found \"Shapley\"");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("300MB"), Some(300_000_000));
        assert_eq!(parse_size("2 GiB"), Some(2 << 30));
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(["9.5 mb", "0.5GB", "800k"].map(parse_size), [Some(9_500_000), Some(500_000_000), Some(800_000)]);
        let sizes = ["10MB", "800kB", "1MiB", "12345"].map(|text| parse_size(text).unwrap());
        assert_eq!(sizes, [10_000_000, 800_000, 1_048_576, 12_345]);
        for wrong in
            ["", "MB", "0", "0MB", "-1MB", "3 apples", "10 bananas", "1.2.3MB", "99999999999999999999", "99999999999GB"]
        {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
