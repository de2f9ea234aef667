//! Keys and signatures in minisign's format, so that `minisign` reads and makes them too. What is signed is a bundle's
//! manifest, which names the digest of every other file.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use minisign::{KeyPair, SecretKey, SecretKeyBox};
use nimbert::{Bundle, PublicKey, bundle::MANIFEST};

use crate::{
    error::{Error, Result},
    scratch::create_new,
};

/// Makes a pair of keys. Neither file may be there; nobody else can read the secret one, which is encrypted if there is a
/// password. Returns the public one as a line of base64.
///
/// # Errors
/// [`Error::Io`] if a file is there or cannot be written: then neither is.
pub fn generate(secret: &Path, public: &Path, password: Option<String>) -> Result<String> {
    let failed = |error: minisign::PError| Error::io(secret, std::io::Error::other(error));
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let KeyPair { pk, sk } = pair.map_err(failed)?;
    let secret_key = sk.to_box(Some("nimbert secret key")).map_err(failed)?;
    create_new(secret, &secret_key.to_bytes(), 0o600)?;
    let public_key = pk.to_box().map_err(failed)?;
    create_new(public, &public_key.to_bytes(), 0o644).inspect_err(|_| {
        // Nobody has used it yet.
        let _ = fs::remove_file(secret);
    })?;
    Ok(pk.to_base64())
}

/// A secret key's file, read.
pub struct SigningKey {
    path: PathBuf,
    key: Key,
}

enum Key {
    Open(SecretKey),
    Encrypted(String),
}

impl SigningKey {
    /// Reads a file as [`generate`] and `minisign -G` write it.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Model`] if it is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
        let expected = "a secret key of minisign: a comment, and a line of base64";
        let key = match SecretKeyBox::from_string(&text).and_then(SecretKeyBox::into_unencrypted_secret_key) {
            Ok(key) => Key::Open(key),
            // The library does not say in another way that it is encrypted.
            Err(error) if error.to_string().contains("encrypted") => Key::Encrypted(text),
            Err(error) => return Err(Error::model(path, expected, error.to_string())),
        };
        Ok(Self { path: path.to_owned(), key })
    }

    /// Whether a password is needed.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.key, Key::Encrypted(_))
    }

    fn decrypt(self, password: Option<String>) -> Result<SecretKey> {
        match self.key {
            Key::Open(key) => Ok(key),
            Key::Encrypted(text) => {
                let wrong = |error: minisign::PError| Error::model(&self.path, "its password", error.to_string());
                // Without one, the library would ask on standard input.
                let password = Some(password.unwrap_or_default());
                SecretKeyBox::from_string(&text).and_then(|key| key.into_secret_key(password)).map_err(wrong)
            }
        }
    }
}

/// Signs the bundle at `bundle`, all of whose files are compared with their digests first. A signature that is there is
/// replaced, in one step. Returns the public key that verifies it.
///
/// # Errors
/// [`Error::Runtime`] if the bundle does not open or was changed; [`Error::Model`] if the password is wrong; [`Error::Io`].
pub fn sign(bundle: &Path, key: SigningKey, password: Option<String>) -> Result<PublicKey> {
    let opened = Bundle::open(bundle)?;
    opened.verify()?;
    let key_path = key.path.clone();
    let key = key.decrypt(password)?;
    let manifest = opened.manifest_bytes()?;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let comment = format!("timestamp:{seconds}\tfile:{MANIFEST}\thashed");
    let failed = |error: minisign::PError| Error::io(bundle, std::io::Error::other(error));
    let untrusted = Some("signature of a nimbert bundle");
    let signature = minisign::sign(None, &key, manifest.as_slice(), Some(&comment), untrusted).map_err(failed)?;
    opened.put_signature(&signature.to_bytes())?;
    let public = minisign::PublicKey::from_secret_key(&key).map_err(failed)?.to_base64();
    let public = public.parse::<PublicKey>().map_err(|expected| Error::model(&key_path, expected, public))?;
    Bundle::open_signed(bundle, std::slice::from_ref(&public))?;
    Ok(public)
}
