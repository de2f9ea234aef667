//! Files of a model hub, over HTTP.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use ureq::{Agent, Response};
use url::Url;

use crate::error::{Error, Result};

/// How long the hub may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it may send on.
const REDIRECTS: usize = 10;
/// Bytes that are read at once.
const CHUNK: usize = 1 << 16;

/// Asks a hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: Url,
    /// For the endpoint alone: nobody to whom it sends on gets it.
    token: Option<String>,
}

/// Why something could not be had.
pub(super) enum Fault {
    /// What the hub did, or the way to it.
    Hub(String),
    /// What happened on this machine.
    Local(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// An answer behind all redirects.
struct Answer {
    response: Response,
    /// What the hub says that tells this content from others.
    etag: Option<String>,
}

/// What a hub says of a file's content.
pub(super) struct Content {
    /// Its name among contents. Where it is 64 hexadecimal digits, it is its SHA-256.
    pub(super) name: String,
    /// In bytes.
    pub(super) size: u64,
}

impl Client {
    pub(super) fn new(endpoint: &str, token: Option<String>) -> Result<Self> {
        let parsed = Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint =
            parsed.ok_or_else(|| Error::setting("HF_ENDPOINT", "an address with http or https", endpoint))?;
        let agent = ureq::builder()
            .try_proxy_from_env(true)
            // They are followed here: what is sent with them depends on where they lead to.
            .redirects(0)
            .timeout_connect(PATIENCE)
            .timeout_read(PATIENCE)
            .timeout_write(PATIENCE)
            .user_agent(concat!("nimbert-train/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent, endpoint, token })
    }

    /// An address below the endpoint.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint.as_str().trim_end_matches('/'))
    }

    /// A document.
    pub(super) fn json(&self, path: &str) -> std::result::Result<serde_json::Value, Fault> {
        let mut text = String::new();
        let answer = self.get(path, None)?;
        answer.response.into_reader().read_to_string(&mut text).map_err(|error| Fault::Hub(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| Fault::Hub(format!("an answer that is no JSON: {error}")))
    }

    /// What the hub says of a file.
    pub(super) fn content(&self, path: &str) -> std::result::Result<Content, Fault> {
        let Answer { response, etag } = self.get(path, Some("bytes=0-0"))?;
        let range = response.header("Content-Range").and_then(|range| range.rsplit('/').next());
        // Who ignores the range sends all of it.
        let length = response.header("Content-Length").filter(|_| response.status() == 200);
        let size = range.or(length).and_then(|size| size.parse().ok());
        // It becomes a file's name.
        let is_name =
            |etag: &String| !etag.is_empty() && etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match (etag.filter(is_name), size) {
            (Some(name), Some(size)) => Ok(Content { name, size }),
            (None, _) => Err(Fault::Hub("an answer without a usable ETag".to_owned())),
            (_, None) => Err(Fault::Hub("an answer without the file's size".to_owned())),
        }
    }

    /// Downloads a file to `partial`, and goes on where that ends. What has another size or SHA-256 than the hub says is an error, and
    /// removed if nothing can come of it. `on_read` is told how many bytes are there.
    pub(super) fn download(
        &self,
        path: &str,
        content: &Content,
        partial: &Path,
        mut on_read: impl FnMut(u64),
    ) -> std::result::Result<(), Fault> {
        let local = |reason| Fault::Local(Error::io(partial, reason));
        let mut file = OpenOptions::new().append(true).create(true).open(partial).map_err(local)?;
        let mut size = file.metadata().map_err(local)?.len();
        if size > content.size {
            file.set_len(0).map_err(local)?;
            size = 0;
        }
        if size < content.size {
            let answer = self.get(path, (size > 0).then(|| format!("bytes={size}-")).as_deref())?;
            let start = answer.response.header("Content-Range").and_then(range_start).unwrap_or(0);
            if start != size {
                // It begins elsewhere, at the beginning as a rule.
                file.set_len(0).map_err(local)?;
                size = 0;
                if start > 0 {
                    return Err(Fault::Hub(format!("a part from byte {start} on that was not asked for")));
                }
            }
            let mut reader = answer.response.into_reader();
            let mut chunk = vec![0; CHUNK];
            on_read(size);
            loop {
                let count = reader.read(&mut chunk).map_err(|error| Fault::Hub(error.to_string()))?;
                if count == 0 {
                    break;
                }
                size += count as u64;
                if size > content.size {
                    break;
                }
                file.write_all(&chunk[..count]).map_err(local)?;
                on_read(size);
            }
        }
        drop(file);
        if size < content.size {
            // What is there is gone on with.
            return Err(Fault::Hub(format!("{size} of {} bytes", content.size)));
        }
        let fault = match size > content.size {
            true => Some(format!("more than the {} bytes that it says", content.size)),
            false => differs(partial, &content.name)?,
        };
        match fault {
            None => Ok(()),
            Some(fault) => {
                fs::remove_file(partial).map_err(local)?;
                Err(Fault::Hub(fault))
            }
        }
    }

    /// The answer to a path below the endpoint, behind redirects.
    fn get(&self, path: &str, range: Option<&str>) -> std::result::Result<Answer, Fault> {
        let hub = |what: String| Fault::Hub(what);
        let mut url = Url::parse(&self.url(path)).map_err(|error| hub(error.to_string()))?;
        let mut etag = None;
        for _ in 0..REDIRECTS {
            let is_hub = url.origin() == self.endpoint.origin();
            // Bytes are counted as they are.
            let mut request = self.agent.request_url("GET", &url).set("Accept-Encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.set("Authorization", &format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.set("Range", range);
            }
            let response = request.call().map_err(|error| hub(reason(error)))?;
            if is_hub {
                let said = response.header("X-Linked-Etag").or_else(|| response.header("ETag"));
                let plain = said.map(|etag| etag.trim_start_matches("W/").replace('"', ""));
                etag = plain.or(etag);
            }
            let location = response.header("Location").filter(|_| matches!(response.status(), 301..=303 | 307 | 308));
            let Some(location) = location else { return Ok(Answer { response, etag }) };
            let next = url.join(location).map_err(|error| hub(format!("a redirect that leads nowhere: {error}")))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(hub("a redirect from https to a connection that others can read".to_owned()));
            }
            url = next;
        }
        Err(hub(format!("more than {REDIRECTS} redirects")))
    }
}

/// Where a part begins, of `bytes 5-9/10`.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// What is wrong with a file whose content has this name, if its name says what it is.
fn differs(file: &Path, name: &str) -> Result<Option<String>> {
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let found = nimbert::sha256_file(file)?;
    let is_same = found.eq_ignore_ascii_case(name);
    Ok((!is_same).then(|| format!("another content than it says: sha256 {found} instead of {name}")))
}

/// What happened, without the address: that of a redirected download is long, and signed.
fn reason(error: ureq::Error) -> String {
    use std::error::Error as _;
    let kind = error.kind().to_string();
    let text = error.source().map_or(kind.clone(), |source| format!("{kind}: {source}"));
    match error.into_response().map(|response| response.status()) {
        Some(status @ (401 | 403)) => {
            format!("status {status}: no such repository, or one that HF_TOKEN gives no access to")
        }
        Some(status) => format!("status {status}"),
        None => text,
    }
}
