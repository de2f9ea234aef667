//! The bundle: one folder that holds everything a classifier needs to run. FORMAT.md specifies it.
//!
//! Reading goes in safetensors' order: a cap on size, the signature where one is asked for, a strict parse, digests, and only
//! then use. Writing goes into a hidden folder beside the target, which takes its place when it is complete.

mod manifest;
mod read;
mod sign;
mod verify;
mod write;

pub(crate) use self::verify::Verifier;
pub use self::{
    manifest::{
        Acceptance, FORMAT_VERSION, FileEntry, FurtherTask, Manifest, Provenance, Unknown, Variant, is_task_name,
    },
    read::Bundle,
    sign::{PublicKey, SIGNATURE},
    verify::Verify,
    write::BundleWriter,
};

/// The manifest's file name.
pub const MANIFEST: &str = "nimbert.json";
/// The file name of the Hugging Face configuration.
pub const CONFIG: &str = "config.json";
/// The file name of the Hugging Face fast tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The file name of the default graph.
pub const MODEL: &str = "model.onnx";
