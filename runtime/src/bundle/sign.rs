//! Signatures in minisign's format: `nimbert.json.minisig` beside the manifest, which names the digest of all else.

use std::{io, path::Path, str::FromStr};

use minisign_verify::Signature;

use super::MANIFEST;
use crate::{
    error::{Error, Result},
    file::read_capped,
    store::Store,
};

/// The file name of the manifest's signature.
pub const SIGNATURE: &str = "nimbert.json.minisig";
/// No key or signature is larger, in bytes: two comments and two lines of base64.
const MAX_BYTES: u64 = 1 << 16;

/// A key of minisign that tells by whom a bundle was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(minisign_verify::PublicKey);

impl PublicKey {
    /// Reads a file as `nimbert-train keygen` and `minisign -G` write it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] if it is no such file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let content = read_capped(path, MAX_BYTES)?;
        let text = String::from_utf8_lossy(&content);
        text.parse().map_err(|expected: String| Error::format(path, expected, "something else"))
    }

    /// A key as users give it: a file's name, or the line of base64 itself.
    ///
    /// # Errors
    /// Those of [`PublicKey::open`].
    pub fn of(text: &str) -> Result<Self> {
        // What is a key is no name: whoever may put a file of that name here would say who must have signed.
        text.parse().or_else(|_| Self::open(text))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    /// The content of such a file, or its line of base64 alone.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let key = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let parsed = minisign_verify::PublicKey::from_base64(key);
        parsed.map(Self).map_err(|_| "a public key of minisign: a comment, and a line of 56 characters".to_owned())
    }
}

/// Compares the signature beside the manifest with its bytes: one of `keys` must have made it.
///
/// # Errors
/// [`Error::Signature`] if there is none, it is another key's, or the bytes are not those that were signed.
pub(super) fn verify(store: &Store, manifest: &[u8], keys: &[PublicKey]) -> Result<()> {
    let path = store.path(SIGNATURE);
    let fail = |got: &str| Err(Error::Signature { path: path.clone(), expected: expected(keys), got: got.to_owned() });
    let content = match store.read(SIGNATURE, MAX_BYTES) {
        Err(Error::Io { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => return fail("no signature"),
        content => content?,
    };
    let Ok(signature) = Signature::decode(&String::from_utf8_lossy(&content)) else {
        return fail("something that is no signature");
    };
    let mut is_known = false;
    for PublicKey(key) in keys {
        match key.verify(manifest, &signature, false) {
            Ok(()) => return Ok(()),
            Err(minisign_verify::Error::UnexpectedKeyId) => {}
            Err(_) => is_known = true,
        }
    }
    match is_known {
        true => fail("one of other bytes: the bundle was changed after it was signed"),
        false => fail("another key's"),
    }
}

fn expected(keys: &[PublicKey]) -> String {
    match keys.len() {
        1 => format!("a signature of {MANIFEST} by the key that was given"),
        count => format!("a signature of {MANIFEST} by one of the {count} keys that were given"),
    }
}

/// The signature's trusted comment, which is not verified here; none without one.
pub(super) fn comment(store: &Store) -> Option<String> {
    let content = store.read(SIGNATURE, MAX_BYTES).ok()?;
    let signature = Signature::decode(&String::from_utf8_lossy(&content)).ok()?;
    Some(signature.trusted_comment().to_owned())
}
