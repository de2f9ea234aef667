//! `nimbert serve`, over a real socket.

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

fn serve(arguments: &[&str]) -> Command {
    let mut command = common::nimbert("serve");
    command.args(arguments);
    command
}

/// A server that is killed with its owner.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = serve(&["--listen", "127.0.0.1:0"]);
        command.args(arguments);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
        Self { child, address }
    }

    /// One that listens at a Unix socket.
    #[cfg(unix)]
    fn at_socket(path: &std::path::Path, arguments: &[&str]) -> Self {
        let mut child = serve(&["--unix-socket"]).arg(path).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: String::new() }
    }

    #[cfg(unix)]
    fn terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Status and body of an answer.
    fn request(&self, request: &str) -> (u16, String) {
        exchange(TcpStream::connect(&self.address).unwrap(), request)
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    fn predict(&self, body: &Value) -> (u16, Value) {
        self.ask("/predict", body)
    }

    fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.request(&post_to(path, &body.to_string(), ""));
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

fn post(body: &str, headers: &str) -> String {
    post_to("/predict", body, headers)
}

fn post_to(path: &str, body: &str, headers: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n{headers}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn exchange(mut stream: impl Read + Write, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[test]
fn predict_has_the_form_of_text_embeddings_inference() {
    let server = Server::start(&[]);
    assert_eq!(server.get("/health").0, 200);
    let (status, one) = server.predict(&json!({ "inputs": "a great film" }));
    assert_eq!(status, 200);
    let labels: Vec<&str> = one.as_array().unwrap().iter().map(|score| score["label"].as_str().unwrap()).collect();
    assert_eq!(labels.len(), 2);
    assert!(one[0]["score"].as_f64() >= one[1]["score"].as_f64());
    let (_, many) = server.predict(&json!({ "inputs": [["a great film"], ["terrible"]], "truncate": true }));
    let (first, again) = (one[0]["score"].as_f64().unwrap(), many[0][0]["score"].as_f64().unwrap());
    assert!((first - again).abs() < 1e-5 && many[1][0]["label"].is_string());
    assert_eq!(server.predict(&json!({ "inputs": ["a question", "its answer"] })).0, 200);
    let (_, raw) = server.predict(&json!({ "inputs": "a great film", "raw_scores": true }));
    let score = |answer: &Value, label: usize| answer[label]["score"].as_f64().unwrap();
    let session = nimbert::SessionOptions { ort_lib: Some(common::library()), ..Default::default() };
    let options = nimbert::Options { session, ..Default::default() };
    let prediction = nimbert::Classifier::open(common::bundle(), &options).unwrap().classify("a great film").unwrap();
    let largest = prediction.logits.iter().copied().fold(f32::MIN, f32::max);
    assert!((score(&raw, 0) - f64::from(largest)).abs() < 1e-5 && raw[0]["label"] == one[0]["label"], "{one} {raw}");
    assert!((score(&raw, 0) - score(&one, 0).ln()).abs() > 1e-3, "{one} {raw}");
    let (status, wrong) = server.predict(&json!({ "input": "a" }));
    assert_eq!((status, wrong["error_type"].as_str()), (422, Some("validation")));
    assert_eq!(server.get("/nowhere").0, 404);
    let (status, info) = server.get("/info");
    assert!(status == 200 && info.contains("\"max_input_length\""), "{info}");
    let (_, metrics) = server.get("/metrics");
    for line in [
        "nimbert_requests_total{status=\"200\"} 4",
        "nimbert_requests_total{status=\"422\"} 1",
        "nimbert_texts_total 5",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    for part in ["tokenization", "queue", "inference"] {
        assert!(metrics.contains(&format!("nimbert_{part}_seconds_count 4")), "{metrics}");
    }
}

#[test]
fn classify_says_all_that_the_bundle_does() {
    let of_bundle = |name: &str| {
        let mut command = common::nimbert_of("serve", &common::workspace(&format!("tests/data/{name}")));
        command.args(["--listen", "127.0.0.1:0"]);
        Server::spawn(command)
    };
    let server = of_bundle("bundle-tasks");
    let texts = json!({ "inputs": [["great plot and plot 2"], ["terrible films and films 1"]] });
    let (status, answers) = server.ask("/classify", &texts);
    assert_eq!((status, &answers[0]["task"], &answers[0]["label"]), (200, &json!("stars"), &json!("10")));
    assert_eq!(answers[1]["further"]["mood"]["label"], "terrible");
    // Those of the first task, as ever.
    let (_, scores) = server.predict(&texts);
    assert_eq!((&scores[0][0]["label"], scores[0].as_array().unwrap().len()), (&json!("10"), 3));
    let one = json!({ "inputs": "great plot and plot 2", "parameters": { "top_k": 1 } });
    assert_eq!(server.ask("/classify", &one).1[0]["scores"].as_object().unwrap().len(), 1);
    assert_eq!(server.ask("/classify", &json!({ "inputs": "a", "raw_scores": true })).0, 422);
    let (_, metrics) = server.get("/metrics");
    for line in [
        "nimbert_requests_total{status=\"422\"} 1",
        "nimbert_labels_total{task=\"stars\",label=\"10\"} 3",
        "nimbert_labels_total{task=\"mood\",label=\"terrible\"} 2",
        "nimbert_scores_count{task=\"mood\"} 5",
        "nimbert_unsure_total{task=\"mood\"} 0",
        "nimbert_unknown_total 0",
        // 21 characters, and 26.
        "nimbert_text_characters_sum 115",
        "nimbert_drift{figure=\"mood labels\"} ",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    let (_, answer) = of_bundle("bundle-certain").ask("/classify", &json!({ "inputs": "great acting" }));
    assert_eq!(
        (&answer["unknown"], answer["set"].is_array(), answer["distance"].is_number()),
        (&json!(true), true, true)
    );
}

#[test]
fn what_is_too_long_is_cut_where_it_is_said_or_refused() {
    let server = Server::start(&[]);
    let (_, info) = server.get("/info");
    let most = serde_json::from_str::<Value>(&info).unwrap()["max_input_length"].as_u64().unwrap() as usize;
    let long = format!("{} {}", "great film ".repeat(most), "terrible plot ".repeat(most));
    let label_scores = |body: Value| {
        let (status, answer) = server.predict(&body);
        assert_eq!(status, 200, "{answer}");
        let scores = answer.as_array().unwrap().iter();
        let mut scores: Vec<(String, i64)> = scores
            .map(|score| (score["label"].to_string(), (score["score"].as_f64().unwrap() * 1e4).round() as i64))
            .collect();
        scores.sort();
        scores
    };
    let whole = label_scores(json!({ "inputs": long }));
    assert_eq!(label_scores(json!({ "inputs": long, "truncation_direction": "Right" })), whole);
    assert_eq!(label_scores(json!({ "inputs": "great film ".repeat(most) })), whole);
    let left = label_scores(json!({ "inputs": long, "truncation_direction": "Left" }));
    assert_eq!(left, label_scores(json!({ "inputs": "terrible plot ".repeat(most), "truncation_direction": "left" })));
    assert_ne!(left, whole);
    let (status, refused) = server.predict(&json!({ "inputs": long, "truncate": false }));
    let message = refused["error"].as_str().unwrap();
    assert!(status == 413 && message.contains(&most.to_string()), "{message}");
    assert_eq!(server.predict(&json!({ "inputs": "short", "truncate": false })).0, 200);
    for wrong in [
        json!({ "inputs": 5 }),
        json!({ "inputs": "a", "truncate": "yes" }),
        json!({ "inputs": "a", "truncation_direction": "up" }),
        json!({ "inputs": "a", "parameters": { "top_k": "two" } }),
    ] {
        assert_eq!(server.predict(&wrong).0, 422, "{wrong}");
    }
}

#[test]
fn clients_of_hosted_models_get_lists_of_lists() {
    let server = Server::start(&[]);
    let body = json!({ "inputs": "a great film", "parameters": { "top_k": 1, "function_to_apply": "none" } });
    let at_root = post(&body.to_string(), "").replacen("/predict", "/", 1);
    let (status, answer) = server.request(&at_root);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status, answer.as_array().unwrap().len(), answer[0].as_array().unwrap().len()), (200, 1, 1));
    let (_, raw) = server.predict(&json!({ "inputs": "a great film", "raw_scores": true }));
    assert_eq!(answer[0][0]["score"], raw[0]["score"]);
    let sigmoid = json!({ "inputs": "a", "parameters": { "function_to_apply": "sigmoid" } });
    let (status, refused) = server.predict(&sigmoid);
    assert!(status == 422 && refused["error"].as_str().unwrap().contains("expected Softmax"), "{refused}");
}

/// The rules of Prometheus' text format, as its own checker has them: `cargo xtask interop` runs that.
#[test]
fn metrics_are_in_the_format_that_their_type_says() {
    let server = Server::start(&[]);
    server.predict(&json!({ "inputs": "a great film" }));
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.to_lowercase().contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        assert!(text.contains(&format!("# HELP {family} ")) && text.contains(&format!("# TYPE {family} ")), "{line}");
    }
}

#[test]
fn what_is_too_large_or_too_much_is_refused() {
    let server = Server::start(&["--max-body", "1KB", "--max-client-batch-size", "2"]);
    assert_eq!(server.predict(&json!({ "inputs": "x".repeat(2000) })).0, 413);
    assert_eq!(server.predict(&json!({ "inputs": [["a"], ["b"], ["c"]] })).0, 413);
    // One request is answered, and there are more.
    let full = Server::start(&["--max-concurrent-requests", "1"]);
    let slow = json!({ "inputs": vec![["word ".repeat(60)]; 32] });
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..32).map(|_| scope.spawn(|| full.predict(&slow).0)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| [200, 429].contains(status)) && statuses.contains(&200), "{statuses:?}");
    assert!(statuses.contains(&429), "{statuses:?}");
}

/// The classifier's queue has one place, and nothing that waits in it is run for an hour.
#[test]
fn who_hangs_up_leaves_the_queue() {
    for text in ["a great film".to_owned(), "a great film ".repeat(1000)] {
        let server = Server::start(&["--max-queue", "1", "--max-wait", "3600000000"]);
        let request = post(&json!({ "inputs": text }).to_string(), "");
        // Whether the queue takes it; then it waits, and its client as well.
        let taken = || {
            let mut stream = TcpStream::connect(&server.address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut start = [0; 12];
            let is_refused = stream.read_exact(&mut start).is_ok();
            assert!(!is_refused || &start == b"HTTP/1.1 429", "{start:?}");
            (!is_refused).then_some(stream)
        };
        let first = taken().expect("an empty queue");
        assert!(taken().is_none());
        drop(first);
        let started = Instant::now();
        while taken().is_none() {
            assert!(started.elapsed() < Duration::from_secs(30), "the one that has hung up still waits");
        }
    }
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    let server = Server::start(&["--max-body", "1KB"]);
    let whole = post(&"x".repeat(5000), "");
    let (head, _) = whole.split_once("\r\n\r\n").unwrap();
    for expect in ["", "\r\nExpect: 100-continue"] {
        let started = Instant::now();
        let (status, answer) = server.request(&format!("{head}{expect}\r\n\r\n"));
        assert!(status == 413 && answer.contains("\"error_type\":\"validation\""), "{status} {answer}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[test]
fn a_body_may_come_in_chunks_and_must_be_json() {
    let server = Server::start(&["--max-body", "100KB"]);
    let chunked = |body: &str| {
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let head = "POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n";
        server.request(&format!("{head}Content-Type: application/json; charset=utf-8\r\n\r\n{chunks}")).0
    };
    assert_eq!(chunked(r#"{"inputs": "a great film"}"#), 200);
    assert_eq!(chunked(&json!({ "inputs": "x".repeat(200_000) }).to_string()), 413);
    let text = post(r#"{"inputs": "a"}"#, "").replacen("application/json", "text/plain", 1);
    let (status, answer) = server.request(&text);
    assert!(status == 422 && answer.contains("application/json"), "{status} {answer}");
}

#[test]
fn half_a_request_is_given_up_after_its_time() {
    let server = Server::start(&["--header-timeout", "1", "--body-timeout", "1"]);
    let whole = post(r#"{"inputs": "a great film"}"#, "");
    let (status, answer) = server.request(&whole[..whole.len() - 5]);
    assert!(status == 408 && answer.contains("within 1 s"), "{status} {answer}");
    let mut head = TcpStream::connect(&server.address).unwrap();
    head.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    head.write_all(&whole.as_bytes()[..20]).unwrap();
    let mut answer = Vec::new();
    head.read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
    assert_eq!(server.predict(&json!({ "inputs": "a great film" })).0, 200);
}

/// The same command with fewer open files.
#[cfg(target_os = "linux")]
fn with_open_files(files: u32, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -n {files} && exec \"$0\" \"$@\"")).arg(command.get_program());
    shell.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell
}

#[cfg(target_os = "linux")]
#[test]
fn half_sent_heads_do_not_stop_others() {
    let server = Server::spawn(with_open_files(512, &serve(&["--listen", "127.0.0.1:0", "--header-timeout", "60"])));
    let half_open = || {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        // It may have been closed for another.
        let _ = stream.write_all(b"POST /predict HTTP/1.1\r\nHost: ");
        stream
    };
    let heads: Vec<TcpStream> = (0..600).map(|_| half_open()).collect();
    for _ in 0..5 {
        let started = Instant::now();
        assert_eq!(server.predict(&json!({ "inputs": "a great film" })).0, 200);
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
    assert_eq!((server.get("/health").0, heads.len()), (200, 600));
}

/// All connections belong to clients that ask as fast as they can: one of them has to make room all the same.
#[test]
fn a_place_is_found_while_others_are_busy() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let server = Server::start(&["--max-connections", "2"]);
    let is_over = AtomicBool::new(false);
    let ask = |stream: &mut TcpStream| {
        let mut answer = [0; 1 << 12];
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").is_ok()
            && stream.read(&mut answer).is_ok_and(|count| count > 0)
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(&server.address) else { continue };
                    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                    // Until it is closed.
                    while !is_over.load(Ordering::Relaxed) && ask(&mut stream) {
                        std::hint::spin_loop();
                    }
                }
            });
        }
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut answered = 0;
            for turn in 0..200 {
                let mut stream = TcpStream::connect(&server.address).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
                let mut answer = String::new();
                let read = stream.read_to_string(&mut answer);
                // Closed for another one it may be, before its request was there, but not left waiting.
                let waits = |error: &std::io::Error| {
                    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
                };
                assert!(!read.as_ref().is_err_and(waits), "turn {turn}: {read:?}");
                answered += u32::from(answer.starts_with("HTTP/1.1 200"));
            }
            assert!(answered > 100, "{answered} of 200");
        }));
        is_over.store(true, Ordering::Relaxed);
        asked.unwrap();
    });
}

/// A request that has come is answered, though its connection is to make room for another in the same moment.
#[test]
fn a_request_that_is_there_is_answered_though_its_place_is_wanted() {
    let request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    for _ in 0..10 {
        let server = Server::start(&["--max-connections", "16"]);
        let mut kept: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
        let mut answer = [0; 1 << 12];
        for stream in &mut kept {
            stream.write_all(request).unwrap();
            assert!(stream.read(&mut answer).unwrap() > 0);
        }
        kept.iter_mut().for_each(|stream| stream.write_all(request).unwrap());
        // Each finds all places taken.
        let others: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
        for (index, stream) in kept.iter_mut().enumerate() {
            assert!(stream.read(&mut answer).unwrap() > 0, "the {index}th of {}", others.len());
        }
    }
}

/// The most memory that a process has had so far, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn many_large_bodies_take_little_memory_and_hold_up_nobody() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let server = Server::start(&["--body-timeout", "5"]);
    let request = post(&json!({ "inputs": "word ".repeat(399_000) }).to_string(), "");
    let is_over = AtomicBool::new(false);
    let (statuses, mut waits) = std::thread::scope(|scope| {
        let health = scope.spawn(|| {
            let mut waits = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                assert_eq!(server.get("/health").0, 200);
                waits.push(started.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            waits
        });
        let clients: Vec<_> = (0..64).map(|_| scope.spawn(|| server.request(&request).0)).collect();
        let statuses: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        // Before any failure is told: the scope waits for its threads.
        is_over.store(true, Ordering::Relaxed);
        let statuses: Vec<u16> = statuses.into_iter().map(|status| status.unwrap()).collect();
        (statuses, health.join().unwrap())
    });
    assert!(statuses.iter().all(|status| [200, 429].contains(status)) && statuses.contains(&200), "{statuses:?}");
    let peak = peak_memory(server.child.id());
    assert!(peak < 400_000_000, "{peak} bytes");
    waits.sort();
    let (late, last) = (waits[waits.len() * 95 / 100], waits[waits.len() - 1]);
    // Far above what it takes, and far below what 64 bodies would: the machine may have other work.
    assert!(late < Duration::from_millis(500) && last < Duration::from_secs(2), "{late:?}, at most {last:?}");
}

#[test]
fn no_key_where_one_was_meant_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "\n").unwrap();
    let refused = |mut command: Command, expected: &str| {
        let output = command.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && message.contains(expected), "{message}");
    };
    refused(serve(&["--api-key", ""]), "--api-key: expected a key, found none");
    let mut of_file = serve(&["--api-key-file"]);
    of_file.arg(&path);
    refused(of_file, "expected a key, found none");
    let mut of_environment = serve(&[]);
    of_environment.env("NIMBERT_API_KEY", "");
    refused(of_environment, "NIMBERT_API_KEY: expected a key, found none");
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let mut of_environment = serve(&[]);
        of_environment.env("NIMBERT_API_KEY", std::ffi::OsStr::from_bytes(b"\xff"));
        refused(of_environment, "NIMBERT_API_KEY: expected UTF-8");
    }
    std::fs::write(&path, "secret\n").unwrap();
    let server = Server::start(&["--api-key-file", path.to_str().unwrap()]);
    let body = json!({ "inputs": "a" }).to_string();
    assert_eq!(server.request(&post(&body, "")).0, 401);
    assert_eq!(server.request(&post(&body, "Authorization: Bearer secret\r\n")).0, 200);
}

#[test]
fn a_key_is_asked_for() {
    let server = Server::start(&["--api-key", "secret"]);
    let body = json!({ "inputs": "a" }).to_string();
    let status = |headers: &str| server.request(&post(&body, headers)).0;
    assert_eq!(status(""), 401);
    assert_eq!(status("Authorization: Bearer guess\r\n"), 401);
    let mut refused = TcpStream::connect(&server.address).unwrap();
    refused.write_all(post(&body, "").as_bytes()).unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.to_lowercase().contains("\r\nwww-authenticate: bearer\r\n"), "{answer}");
    assert_eq!(status("Authorization: Bearer secret\r\n"), 200);
    assert_eq!(status("authorization: bEARER secret\r\n"), 200);
    assert_eq!((server.get("/health").0, server.get("/metrics").0), (200, 401));
    assert_eq!(server.request(&post_to("/classify", &body, "")).0, 401);
    let (_, metrics) =
        server.request("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer secret\r\n\r\n");
    assert!(metrics.contains("nimbert_requests_total{status=\"401\"} 4"), "{metrics}");
}

#[cfg(unix)]
#[test]
fn requests_in_flight_are_answered_before_it_ends() {
    let mut server = Server::start(&[]);
    let body = json!({ "inputs": vec![["word ".repeat(60)]; 32] }).to_string();
    let mut streams: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(&server.address).unwrap()).collect();
    for stream in &mut streams {
        stream.write_all(post(&body, "").as_bytes()).unwrap();
    }
    // All have come when the first is answered.
    let mut first = String::new();
    streams[0].read_to_string(&mut first).unwrap();
    server.terminate();
    assert!(first.contains("200 OK"), "{first}");
    for stream in &mut streams[1..] {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
    }
    assert!(server.child.wait().unwrap().success());
}

#[cfg(unix)]
#[test]
fn half_a_request_does_not_hold_up_the_end() {
    let mut server = Server::start(&[]);
    let mut head = TcpStream::connect(&server.address).unwrap();
    head.write_all(b"POST /predict HTTP/1.1\r\nHost: x\r\n").unwrap();
    let mut body = TcpStream::connect(&server.address).unwrap();
    let request = post("{\"inputs\": \"a great film\"}", "");
    body.write_all(&request.as_bytes()[..request.len() - 5]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    server.terminate();
    assert!(server.child.wait().unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[cfg(unix)]
#[test]
fn a_unix_socket_will_do() {
    use std::os::unix::net::UnixStream;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    // One that a killed process has left is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut server = Server::at_socket(&path, &[]);
    let asked = || exchange(UnixStream::connect(&path).unwrap(), &post("{\"inputs\": \"a\"}", ""));
    let (status, answer) = asked();
    assert!(status == 200 && answer.contains("score"), "{answer}");
    // The next one takes its place while half of a request keeps it from ending, and keeps the place.
    let mut half = UnixStream::connect(&path).unwrap();
    half.write_all(b"POST /predict HTTP/1.1\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    let terminated = Instant::now();
    while UnixStream::connect(&path).is_ok() {
        assert!(terminated.elapsed() < Duration::from_secs(10), "it still listens");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut next = Server::at_socket(&path, &[]);
    assert!(server.child.try_wait().unwrap().is_none(), "it has ended already");
    assert!(server.child.wait().unwrap().success());
    assert_eq!(asked().0, 200);
    next.terminate();
    assert!(next.child.wait().unwrap().success() && !path.exists());
}

#[cfg(unix)]
const MANY_TEXTS: [&str; 4] = ["--max-client-batch-size", "4096", "--max-queue", "4096"];

/// What a client has of an answer that is larger than the system takes at once: its head, what that says there is, and what came.
#[cfg(unix)]
fn slowly(path: &std::path::Path, meanwhile: impl FnOnce()) -> (String, usize, usize) {
    let body = json!({ "inputs": vec![["a great film"]; 4096] }).to_string();
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.write_all(post_to("/classify", &body, "").as_bytes()).unwrap();
    let mut first = [0];
    stream.read_exact(&mut first).unwrap();
    meanwhile();
    let mut rest = Vec::new();
    // One that was given up may be reset.
    let _ = stream.read_to_end(&mut rest);
    let rest = String::from_utf8(rest).unwrap();
    let (head, body) = rest.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    (head.to_owned(), length.parse().unwrap(), body.len())
}

#[cfg(unix)]
#[test]
fn an_answer_that_is_being_sent_is_sent_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut server = Server::at_socket(&path, &MANY_TEXTS);
    let (head, length, got) = slowly(&path, || {
        server.terminate();
        // Longer than what is sent by nobody is waited for.
        std::thread::sleep(Duration::from_secs(3));
    });
    assert!(head.contains("200 OK"), "{head}");
    assert!(got > 300_000 && got == length, "{got} of {length}");
    assert!(server.child.wait().unwrap().success());
}

#[cfg(unix)]
#[test]
fn an_answer_that_is_being_sent_is_not_cut_for_another_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _server = Server::at_socket(&path, &[&MANY_TEXTS[..], &["--max-connections", "1"]].concat());
    let other = std::cell::OnceCell::new();
    let (_, length, got) = slowly(&path, || {
        let asked = path.clone();
        let request = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let ask = move || exchange(std::os::unix::net::UnixStream::connect(asked).unwrap(), request);
        let _ = other.set(std::thread::spawn(ask));
        std::thread::sleep(Duration::from_secs(1));
    });
    assert!(length > 300_000 && got == length, "{got} of {length}");
    assert_eq!(other.into_inner().unwrap().join().unwrap().0, 200);
}

#[cfg(unix)]
#[test]
fn a_client_that_does_not_take_its_answer_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let _server = Server::at_socket(&path, &[&MANY_TEXTS[..], &["--body-timeout", "1"]].concat());
    let (_, length, got) = slowly(&path, || std::thread::sleep(Duration::from_secs(4)));
    assert!(got < length, "{got} of {length}");
}

#[test]
fn a_small_body_in_chunks_does_not_wait_for_large_ones() {
    let server = Server::start(&[]);
    let head = |length: &str| {
        format!(
            "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n{length}\r\n\r\n"
        )
    };
    // All that large bodies may have is promised to these.
    let half = || {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(head("Content-Length: 2000000").as_bytes()).unwrap();
        stream.write_all(b"{").unwrap();
        stream
    };
    let halves: Vec<TcpStream> = (0..9).map(|_| half()).collect();
    std::thread::sleep(Duration::from_millis(300));
    let body = r#"{"inputs": "a great film"}"#;
    let chunks = format!("{}{:x}\r\n{body}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked"), body.len());
    let started = Instant::now();
    assert_eq!(server.request(&chunks).0, 200);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?} beside {}", started.elapsed(), halves.len());
}

#[test]
fn a_client_that_was_told_to_go_on_may_send_all_before_it_is_refused() {
    let server = Server::start(&["--max-body", "1KB"]);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
                Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut goes_on = [0; 25];
    stream.read_exact(&mut goes_on).unwrap();
    assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, "x".repeat(1 << 16));
    for _ in 0..128 {
        stream.write_all(chunk.as_bytes()).expect("a connection that takes what was asked for");
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn a_body_that_is_packed_or_in_another_encoding_is_refused() {
    let server = Server::start(&[]);
    let body = r#"{"inputs": "a great film"}"#;
    let (status, answer) = server.request(&post(body, "Content-Encoding: gzip\r\n"));
    assert!(status == 415 && answer.contains("Content-Encoding: expected none, found gzip"), "{status} {answer}");
    let other = post(body, "").replacen("application/json", "application/json; charset=\"UTF-16\"", 1);
    assert_eq!(server.request(&other).0, 415);
    let same = post(body, "Content-Encoding: identity\r\n").replacen("json\r", "json; charset=UTF-8\r", 1);
    assert_eq!(server.request(&same).0, 200);
}

#[test]
fn a_host_has_a_name_too_and_what_is_wrong_with_a_request_is_said_in_one_form() {
    let server = Server::spawn(serve(&["--listen", "localhost:0"]));
    for (status, answer) in [server.get("/nowhere"), server.get("/predict")] {
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert!(matches!(status, 404 | 405) && answer["error"].is_string(), "{status} {answer}");
    }
    // A list would be taken for the values of the object.
    for body in ["[\"a great film\", true]", "[\"a great film\"]", "\"a great film\""] {
        let (status, answer) = server.request(&post(body, ""));
        assert!(status == 422 && answer.contains("expected a JSON object"), "{status} {answer}");
    }
    let (status, answer) = server.predict(&json!({ "inputs": "a", "parameters": [1, "none"] }));
    assert!(status == 422 && answer["error"].as_str().unwrap().contains("expected a JSON object"), "{answer}");
    let (status, _) = server.predict(&json!({ "inputs": "a", "raw_scores": null, "truncate": null }));
    assert_eq!(status, 200);
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let server = Server::start(&[]);
    let output = serve(&["--listen", &server.address]).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && message.contains(&server.address), "{message}");
}
