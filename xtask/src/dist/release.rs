//! What a release has besides its files: an SBOM, digests, and a signature.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{FOLDER, VERSION};
use crate::{
    guard,
    setup::{ONNX_RUNTIME, ONNX_RUNTIME_ARMV7, SHERPA_ONNX, sha256},
    workspace,
};

const ENDS: [&str; 7] = [".tar.gz", ".zip", ".deb", ".rpm", ".whl", ".tgz", ".cdx.json"];

/// Removes what an earlier run has packed.
pub(super) fn clear() -> Result<()> {
    let digests = ["SHA256SUMS", "SHA256SUMS.minisig"].map(str::to_owned);
    for path in packed()?.into_iter().chain(digests).map(|name| workspace(FOLDER).join(name)) {
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The names of packed files.
fn packed() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace(FOLDER))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| ENDS.iter().any(|end| name.ends_with(end)));
    names.sort();
    Ok(names)
}

/// That a tag is the version, and that all that ships has it.
pub(super) fn check_version(tag: &str) -> Result<()> {
    let expected = format!("v{VERSION}");
    if tag != expected {
        bail!("expected the tag {expected}, found {tag}");
    }
    let package: Value = serde_json::from_slice(&fs::read(workspace("bindings/node/package.json"))?)?;
    let systems = package["optionalDependencies"].as_object().context("package.json: optionalDependencies")?;
    if systems.values().chain([&package["version"]]).any(|version| version != VERSION) {
        bail!("bindings/node/package.json: expected the version {VERSION} everywhere");
    }
    let python = fs::read_to_string(workspace("bindings/python/pyproject.toml"))?;
    if !python.contains(&format!("\"nimbert-cli=={VERSION}\"")) {
        bail!("bindings/python/pyproject.toml: expected nimbert-cli=={VERSION}");
    }
    Ok(())
}

/// Writes the SBOM and `SHA256SUMS` of what lies in the folder, and signs that.
pub(super) fn finish(key: Option<&str>) -> Result<()> {
    let folder = workspace(FOLDER);
    sbom(&folder.join(format!("nimbert-{VERSION}.cdx.json")))?;
    let mut sums = String::new();
    for name in packed()? {
        let path = folder.join(&name);
        println!("dist: {name}: {:.2} MB", path.metadata()?.len() as f64 / 1e6);
        sums += &format!("{}  {name}\n", sha256(&path)?);
    }
    let (path, partial) = (folder.join("SHA256SUMS"), folder.join("SHA256SUMS.partial"));
    let signature = folder.join("SHA256SUMS.minisig");
    let _ = fs::remove_file(&signature);
    fs::write(&partial, &sums)?;
    fs::rename(&partial, path)?;
    match key {
        Some(key) => sign(&sums, Path::new(key), &signature),
        None => {
            println!("dist: not signed: no --key was given");
            Ok(())
        }
    }
}

/// What the program is made of, as CycloneDX; without what differs each time that it is made.
fn sbom(path: &Path) -> Result<()> {
    guard::sbom()?;
    let text = fs::read_to_string(workspace("target/sbom/nimbert.cdx.json"))?;
    // It names where the checkout lies.
    let text = text.replace(&workspace(".").components().as_path().display().to_string(), "/nimbert");
    let mut sbom: Value = serde_json::from_str(&text)?;
    let object = sbom.as_object_mut().context("nimbert.cdx.json: expected an object")?;
    object.remove("serialNumber");
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.context("nimbert.cdx.json: expected metadata")?.remove("timestamp");
    let components = object.get_mut("components").and_then(Value::as_array_mut);
    let library = |version: &str, package: &str| {
        serde_json::json!({
            "type": "library", "name": "onnxruntime", "version": version,
            "purl": format!("pkg:pypi/{}", package.replace("==", "@")),
            "licenses": [{"license": {"id": "MIT"}}],
        })
    };
    let libraries =
        [library(ONNX_RUNTIME, &format!("onnxruntime@{ONNX_RUNTIME}")), library(ONNX_RUNTIME_ARMV7, SHERPA_ONNX)];
    components.context("nimbert.cdx.json: expected components")?.extend(libraries);
    fs::write(path, serde_json::to_string_pretty(&sbom)?).with_context(|| path.display().to_string())
}

fn sign(text: &str, key: &Path, signature: &Path) -> Result<()> {
    let key = fs::read_to_string(key).with_context(|| key.display().to_string())?;
    let key = minisign::SecretKeyBox::from_string(&key)?;
    let password = std::env::var("NIMBERT_KEY_PASSWORD").ok().filter(|password| !password.is_empty());
    let key = match password {
        Some(password) => key.into_secret_key(Some(password))?,
        None => key.into_unencrypted_secret_key()?,
    };
    let comment = format!("nimbert {VERSION}");
    let signed = minisign::sign(None, &key, text.as_bytes(), Some(&comment), None)?;
    fs::write(signature, signed.into_string()).with_context(|| signature.display().to_string())
}
