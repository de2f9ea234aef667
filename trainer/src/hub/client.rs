//! Files of a model hub, over HTTP.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    time::Duration,
};

use ureq::{Agent, Response};
use url::Url;

use crate::error::{Error, Result};

/// How often the hub may send on.
const REDIRECTS: usize = 10;
/// Bytes that are read at once, at most.
const CHUNK: usize = 1 << 16;
/// No document is larger, in bytes.
const DOCUMENT: u64 = 1 << 24;

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

impl Answer {
    /// What tells the content of a file from others: it becomes a file's name.
    fn name(&self) -> std::result::Result<&str, Fault> {
        let status = self.response.status();
        let is_name = |etag: &&String| etag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        match self.etag.as_ref().filter(|etag| !etag.is_empty()).filter(is_name) {
            _ if !matches!(status, 200 | 206) => Err(Fault::Hub(format!("status {status}"))),
            Some(name) => Ok(name),
            None => Err(Fault::Hub("an answer without a usable ETag".to_owned())),
        }
    }

    /// The size of the whole content, if it is said.
    fn size(&self) -> Option<u64> {
        let said = match self.response.status() {
            206 => self.response.header("Content-Range").and_then(|range| range.rsplit('/').next()),
            // Who ignores the range sends all of it.
            _ => self.response.header("Content-Length"),
        };
        said?.parse().ok()
    }

    /// Where the part begins that it has, of `bytes 5-9/10`.
    fn start(&self) -> u64 {
        let range = self.response.header("Content-Range").and_then(|range| range.strip_prefix("bytes "));
        range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0)
    }
}

/// What a hub says of a file's content.
pub(super) struct Content {
    /// Its name among contents. Where it is 64 hexadecimal digits, it is its SHA-256.
    pub(super) name: String,
    /// In bytes.
    pub(super) size: u64,
}

impl Content {
    /// Its SHA-256, if the hub says it.
    fn sha256(&self) -> Option<&str> {
        let is_digest = self.name.len() == 64 && self.name.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then_some(&self.name)
    }
}

impl Client {
    /// One that waits so long for a connection, and for what comes over it.
    pub(super) fn new(endpoint: &str, token: Option<String>, patience: Duration) -> Result<Self> {
        let parsed = Url::parse(endpoint).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let endpoint =
            parsed.ok_or_else(|| Error::setting("HF_ENDPOINT", "an address with http or https", "another one"))?;
        let agent = ureq::builder()
            .try_proxy_from_env(true)
            // They are followed here: what is sent with them depends on where they lead to.
            .redirects(0)
            // One that is used again has no time limits any more.
            .max_idle_connections(0)
            .timeout_connect(patience)
            .timeout_read(patience)
            .timeout_write(patience)
            .user_agent(concat!("nimbert-train/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent, endpoint, token })
    }

    /// An address below the endpoint.
    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint.as_str().trim_end_matches('/'))
    }

    /// The same for people, without a name and a password.
    pub(super) fn shown(&self, path: &str) -> String {
        let mut endpoint = self.endpoint.clone();
        // Addresses with http have both.
        let _ = endpoint.set_password(None).and_then(|()| endpoint.set_username(""));
        format!("{}/{path}", endpoint.as_str().trim_end_matches('/'))
    }

    /// A document.
    pub(super) fn json(&self, path: &str) -> std::result::Result<serde_json::Value, Fault> {
        let mut text = String::new();
        let answer = self.get(path, None)?;
        let mut reader = answer.response.into_reader().take(DOCUMENT);
        reader.read_to_string(&mut text).map_err(|error| Fault::Hub(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| Fault::Hub(format!("an answer that is no JSON: {error}")))
    }

    /// What the hub says of a file.
    pub(super) fn content(&self, path: &str) -> std::result::Result<Content, Fault> {
        let answer = self.get(path, Some("bytes=0-0"))?;
        let name = answer.name()?.to_owned();
        let size = answer.size().ok_or_else(|| Fault::Hub("an answer without the file's size".to_owned()))?;
        Ok(Content { name, size })
    }

    /// Downloads a file to `partial`, and goes on where that ends if what is there can be known to fit. What has another size or SHA-256 than
    /// the hub says is an error. `on_read` is told how many bytes are there.
    pub(super) fn download(
        &self,
        path: &str,
        content: &Content,
        partial: &Path,
        on_read: impl FnMut(u64),
    ) -> std::result::Result<(), Fault> {
        self.read_on(path, content, partial, on_read)?;
        let Some(expected) = content.sha256() else { return Ok(()) };
        let found = nimbert::sha256_file(partial).map_err(Error::from)?;
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        fs::remove_file(partial).map_err(|reason| Error::io(partial, reason))?;
        Err(Fault::Hub(format!("another content than it says: sha256 {found} instead of {expected}")))
    }

    /// Reads what `partial` lacks.
    fn read_on(
        &self,
        path: &str,
        content: &Content,
        partial: &Path,
        mut on_read: impl FnMut(u64),
    ) -> std::result::Result<(), Fault> {
        let local = |reason| Fault::Local(Error::io(partial, reason));
        // Not to append alone: Windows cuts no such file.
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(partial).map_err(local)?;
        let mut size = file.metadata().map_err(local)?.len();
        // Without a digest nobody knows of what it is a part.
        if size > content.size || content.sha256().is_none() {
            file.set_len(0).map_err(local)?;
            size = 0;
        }
        if size == content.size {
            return Ok(());
        }
        let answer = self.get(path, Some(&format!("bytes={size}-")))?;
        if answer.name()? != content.name || answer.size().is_some_and(|size| size != content.size) {
            return Err(Fault::Hub("another answer than before".to_owned()));
        }
        match answer.start() {
            start if start == size => {}
            0 => {
                file.set_len(0).map_err(local)?;
                size = 0;
            }
            start => return Err(Fault::Hub(format!("a part from byte {start} on, which was not asked for"))),
        }
        file.seek(SeekFrom::Start(size)).map_err(local)?;
        let mut reader = answer.response.into_reader();
        let mut chunk = vec![0; CHUNK];
        on_read(size);
        while size <= content.size {
            let count = reader.read(&mut chunk).map_err(|error| Fault::Hub(error.to_string()))?;
            if count == 0 {
                break;
            }
            file.write_all(&chunk[..count]).map_err(local)?;
            size += count as u64;
            on_read(size);
        }
        if size != content.size {
            return Err(Fault::Hub(format!("{size} of {} bytes", content.size)));
        }
        file.sync_all().map_err(local)
    }

    /// The answer to a path below the endpoint, behind redirects.
    fn get(&self, path: &str, range: Option<&str>) -> std::result::Result<Answer, Fault> {
        let mut url = Url::parse(&self.url(path)).map_err(|error| Fault::Hub(error.to_string()))?;
        let (mut linked, mut etag) = (None, None);
        for _ in 0..=REDIRECTS {
            let is_hub = url.origin() == self.endpoint.origin();
            // Bytes are counted as they are.
            let mut request = self.agent.request_url("GET", &url).set("Accept-Encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.set("Authorization", &format!("Bearer {token}"));
            }
            if let Some(range) = range {
                request = request.set("Range", range);
            }
            let response = request.call().map_err(|error| Fault::Hub(reason(error, is_hub)))?;
            if is_hub {
                let said = |name| response.header(name).map(|etag| etag.trim_start_matches("W/").replace('"', ""));
                // That of the content itself, which is its SHA-256 as a rule; that of where it lies need not be.
                linked = linked.or_else(|| said("X-Linked-Etag"));
                etag = said("ETag").or(etag);
            }
            let location = response.header("Location").filter(|_| matches!(response.status(), 301..=303 | 307 | 308));
            let Some(location) = location else { return Ok(Answer { response, etag: linked.or(etag) }) };
            let next =
                url.join(location).map_err(|error| Fault::Hub(format!("a redirect that leads nowhere: {error}")))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Fault::Hub("a redirect from https to a connection that others can read".to_owned()));
            }
            url = next;
        }
        Err(Fault::Hub(format!("more than {REDIRECTS} redirects")))
    }
}

/// What happened, without the address: that of a redirected download is long, and signed.
fn reason(error: ureq::Error, is_hub: bool) -> String {
    use std::error::Error as _;
    let kind = error.kind().to_string();
    let text = error.source().map_or(kind.clone(), |source| format!("{kind}: {source}"));
    match error.into_response().map(|response| response.status()) {
        Some(status @ (401 | 403)) if is_hub => {
            format!("status {status}: no such repository, or one that HF_TOKEN gives no access to")
        }
        Some(status) => format!("status {status}"),
        None => text,
    }
}
