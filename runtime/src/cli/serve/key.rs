//! The key that requests must have.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use nimbert::sha256;

use super::{CLASSIFY, Failure, PREDICT, ROOT, Server};

/// Where the key is without an argument.
const VARIABLE: &str = "NIMBERT_API_KEY";

#[derive(clap::Args)]
pub(super) struct KeyArgs {
    /// A key that requests must have, as `Authorization: Bearer KEY` [environment: NIMBERT_API_KEY]. All users of the
    /// machine can see a key that is given here
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// A file that holds the key
    #[arg(long, value_name = "FILE", conflicts_with = "api_key")]
    api_key_file: Option<PathBuf>,
}

impl KeyArgs {
    /// Digest of the key: two digests take the same time to compare, whatever the keys have in common.
    ///
    /// # Errors
    /// If a key was meant and there is none: nobody who asks for one is served without.
    pub(super) fn digest(&self) -> anyhow::Result<Option<String>> {
        let key = key(self.api_key.as_deref(), self.api_key_file.as_deref(), std::env::var_os(VARIABLE))?;
        Ok(key.map(|key| sha256(key.as_bytes())))
    }
}

fn key(argument: Option<&str>, file: Option<&Path>, variable: Option<OsString>) -> anyhow::Result<Option<String>> {
    let (source, key) = match (argument, file, variable) {
        (Some(key), ..) => ("--api-key".to_owned(), key.to_owned()),
        (None, Some(path), _) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            (path.display().to_string(), line.strip_suffix('\r').unwrap_or(line).to_owned())
        }
        (None, None, Some(value)) => {
            let Ok(key) = value.into_string() else { anyhow::bail!("{VARIABLE}: expected UTF-8") };
            (VARIABLE.to_owned(), key)
        }
        (None, None, None) => return Ok(None),
    };
    anyhow::ensure!(!key.is_empty(), "{source}: expected a key, found none");
    // Nobody could send another.
    let is_sent = key.trim() == key && key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    anyhow::ensure!(is_sent, "{source}: expected a key of ASCII letters, digits and signs, in one line");
    Ok(Some(key))
}

/// Lets requests pass that have the key.
pub(super) async fn authorized(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
    // The scheme's case means nothing (RFC 9110, 11.1).
    let key = value.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, key)| key);
    let is_allowed = match &server.api_key {
        None => true,
        Some(expected) => key.is_some_and(|key| sha256(key.as_bytes()) == *expected),
    };
    if is_allowed {
        return next.run(request).await;
    }
    if [PREDICT, ROOT, CLASSIFY].contains(&request.uri().path()) {
        server.metrics.answered(StatusCode::UNAUTHORIZED.as_u16());
    }
    server.admission.discard(&headers, request.into_body().into());
    let failure = Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", "expected Authorization: Bearer KEY");
    ([(header::WWW_AUTHENTICATE, "Bearer")], failure).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_was_given_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let of_file = |text: &str| {
            std::fs::write(&path, text).unwrap();
            key(None, Some(&path), Some("other".into()))
        };
        for text in ["secret", "secret\n", "secret\r\n"] {
            assert_eq!(of_file(text).unwrap().as_deref(), Some("secret"));
        }
        for text in ["", "\n", "two\nlines\n", " secret", "schlüssel"] {
            assert!(of_file(text).is_err(), "{text:?}");
        }
        assert_eq!(key(Some("given"), None, Some("other".into())).unwrap().as_deref(), Some("given"));
        assert_eq!(key(None, None, Some("other".into())).unwrap().as_deref(), Some("other"));
        assert_eq!(key(None, None, None).unwrap(), None);
        assert!(key(Some(""), None, None).is_err() && key(None, None, Some(OsString::new())).is_err());
    }
}
