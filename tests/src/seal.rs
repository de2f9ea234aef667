//! The digests of a changed bundle, as anybody can compute them who is not asked for a signature. Written from FORMAT.md,
//! not from the code that reads them.

use std::path::Path;

use serde_json::{Value, json};

/// Stands in place of the manifest's own digest while that is computed.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Where the manifest's own digest lies in it; none in format 1.
pub fn digest_place(manifest: &[u8]) -> Option<usize> {
    let value: Value = serde_json::from_slice(manifest).expect("the unchanged manifest");
    find(manifest, value["manifest_sha256"].as_str()?)
}

/// Gives a manifest, whose digest lies at `place`, the right one.
pub fn seal_manifest(manifest: &mut [u8], place: usize) {
    let place = place..place + ZEROS.len();
    manifest[place.clone()].copy_from_slice(ZEROS.as_bytes());
    let digest = nimbert::sha256(manifest);
    manifest[place].copy_from_slice(digest.as_bytes());
}

/// The manifest of a bundle of which the file `name` has other content.
pub fn manifest_with(manifest: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    changed(manifest, |value| {
        value["files"][name] = json!({ "bytes": content.len(), "sha256": nimbert::sha256(content) });
    })
}

/// Changes the manifest of the bundle in a folder.
pub fn change_manifest(bundle: &Path, change: impl FnOnce(&mut Value)) {
    let path = bundle.join("nimbert.json");
    let manifest = std::fs::read(&path).expect("the bundle's manifest");
    std::fs::write(path, changed(&manifest, change)).expect("a bundle in a temporary folder");
}

fn changed(manifest: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(manifest).expect("the unchanged manifest");
    change(&mut value);
    let has_digest = value["manifest_sha256"].is_string();
    if has_digest {
        value["manifest_sha256"] = json!(ZEROS);
    }
    let mut manifest = serde_json::to_vec_pretty(&value).expect("JSON");
    manifest.push(b'\n');
    if has_digest {
        let place = find(&manifest, ZEROS).expect("the zeros were written");
        seal_manifest(&mut manifest, place);
    }
    manifest
}

fn find(content: &[u8], part: &str) -> Option<usize> {
    content.windows(part.len()).position(|window| window == part.as_bytes())
}

/// Replaces a file of the bundle in `folder`, and lists what it is now.
pub fn replace(folder: &Path, name: &str, content: &[u8]) {
    let manifest = folder.join("nimbert.json");
    let before = std::fs::read(&manifest).expect("a manifest");
    std::fs::write(folder.join(name), content).expect("the bundle can be written");
    std::fs::write(&manifest, manifest_with(&before, name, content)).expect("the bundle can be written");
}
