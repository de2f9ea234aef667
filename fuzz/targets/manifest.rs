//! `nimbert.json`, as it is and with a digest that fits; and `config.json`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use nimbert::{Manifest, config::ModelConfig, sha256};

fuzz_target!(|content: &[u8]| {
    let path = Path::new("nimbert.json");
    let _ = ModelConfig::parse(path, content);
    if Manifest::parse(path, content).is_err()
        && let Ok(serde_json::Value::Object(mut manifest)) = serde_json::from_slice(content)
    {
        // A stranger can compute digests too.
        let zeros = "0".repeat(64);
        manifest.insert("manifest_sha256".to_owned(), zeros.clone().into());
        let json = serde_json::Value::Object(manifest).to_string();
        let _ = Manifest::parse(path, json.replacen(&zeros, &sha256(json.as_bytes()), 1).as_bytes());
    }
});
