//! The runtime under what happens to it: many threads, full queues, impatient callers, little memory, a kill.

use std::{
    fs,
    path::Path,
    pin::pin,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    task::{Context, Poll, Wake, Waker},
    thread::Thread,
    time::{Duration, Instant},
};

use nimbert::{
    Background, BackgroundOptions, CallOptions, Classifier, Device, Error, Options, Parallelism, Prediction,
    SessionOptions, device::GpuOptions,
};
use nimbert_tests::{Dir, base, finish, fit, program, small_csv, tiny_bundle};

/// Longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Different texts of 1 to 60 words.
fn texts(count: usize) -> Vec<String> {
    let words = ["film", "great", "one", "the", "year", "best", "acting", "terrible"];
    let text = |row: usize| {
        let word = |place: usize| words[(row * 7 + place * place) % words.len()];
        (0..1 + row * 13 % 60).map(word).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(text).collect()
}

#[test]
fn calls_from_many_threads_get_the_answers_of_calls_alone() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let texts = texts(200);
    let alone =
        Classifier::open(&bundle, &Options { parallelism: Parallelism::Latency, ..Options::default() }).unwrap();
    let expected: Vec<_> = texts.iter().map(|text| alone.classify(text).unwrap()).collect();
    for parallelism in [Parallelism::Auto, Parallelism::Latency, Parallelism::Throughput] {
        let classifier = Classifier::open(&bundle, &Options { parallelism, ..Options::default() }).unwrap();
        let check = |thread: usize| {
            for (text, expected) in texts.iter().zip(&expected).skip(thread).step_by(8) {
                let got = classifier.classify(text).unwrap();
                assert_eq!(got.label, expected.label);
                assert!((got.score - expected.score).abs() < 1e-5, "{} and {}", got.score, expected.score);
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || check(thread));
            }
        });
    }
}

#[test]
fn a_full_queue_is_an_error_and_a_call_that_is_alone_may_be_large() {
    let dir = Dir::default();
    let session = SessionOptions { threads: Some(1), ..SessionOptions::default() };
    let options = Options { queue_limit: Some(4), session, ..Options::default() };
    let classifier = Classifier::open(tiny_bundle(&dir), &options).unwrap();
    assert_eq!(classifier.classify_batch(&texts(100)).unwrap().len(), 100);
    let refused = AtomicBool::new(false);
    let many = texts(20_000);
    std::thread::scope(|scope| {
        // It may be of any size when nobody waits, which the other text may do at that moment.
        let large = scope.spawn(|| {
            loop {
                match classifier.classify_batch(&many) {
                    Err(Error::QueueFull { .. }) => {}
                    result => return result,
                }
            }
        });
        while !large.is_finished() && !refused.load(Ordering::Relaxed) {
            match classifier.classify("film") {
                Ok(_) => {}
                Err(Error::QueueFull { limit: 4 }) => refused.store(true, Ordering::Relaxed),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(large.join().unwrap().is_ok());
    });
    assert!(refused.into_inner(), "the queue was never full");
}

/// What would change nothing.
#[test]
fn options_that_do_not_go_together_are_refused() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let of_gpu = |gpu: GpuOptions| Options {
        session: SessionOptions { gpu, ..SessionOptions::default() },
        ..Options::default()
    };
    let limited = of_gpu(GpuOptions { memory_limit: Some(1 << 30), ..GpuOptions::default() });
    let allowing = of_gpu(GpuOptions { allow_cpu: true, ..GpuOptions::default() });
    let mut fast = Options::default();
    (fast.session.device, fast.session.fast_math) = (Device::Cuda(0), true);
    for (options, expected) in [(limited, "gpu_memory_limit"), (allowing, "allow_cpu"), (fast, "fast_math")] {
        match Classifier::open(&bundle, &options) {
            Err(Error::Setting { name, .. }) => assert_eq!(name, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn a_call_may_be_cancelled_or_have_a_deadline() {
    let dir = Dir::default();
    // Nobody else comes, for whom the text waits.
    let lonely = Options { max_wait: Duration::from_secs(3600), queue_limit: Some(1), ..Options::default() };
    let lonely = Arc::new(Classifier::open(tiny_bundle(&dir), &lonely).unwrap());
    let cancel = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let options = CallOptions { cancel: Some(&cancel), ..CallOptions::default() };
            lonely.classify_with(["great acting"], options).map(drop)
        });
        std::thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::Relaxed);
        assert!(matches!(call.join().unwrap(), Err(Error::Cancelled)));
    });
    // Its place in the queue is free.
    drop(lonely.enqueue(["great acting"], CallOptions::default()).unwrap());
    // A neighbour that gives up leaves a text that another worker must see: both wait for a fuller batch here.
    let patient = Options { max_wait: Duration::from_secs(2), ..Options::default() };
    let patient = Classifier::open(dir.path("bundle"), &patient).unwrap();
    patient.classify_batch(&texts(50)).unwrap();
    std::thread::scope(|scope| {
        let stays = scope.spawn(|| patient.classify("film"));
        let soon = Some(Instant::now() + Duration::from_millis(200));
        let goes = patient.classify_with(["great film"], CallOptions { deadline: soon, ..CallOptions::default() });
        assert!(matches!(goes, Err(Error::DeadlinePassed)));
        assert!(stays.join().unwrap().is_ok());
    });
    let classifier = Classifier::open(dir.path("bundle"), &Options::default()).unwrap();
    let deadline = Some(Instant::now());
    let late = classifier.classify_with(&texts(100), CallOptions { deadline, ..CallOptions::default() });
    assert!(matches!(late, Err(Error::DeadlinePassed)));
    // Nothing of those calls is left in the way of this one.
    let started = Instant::now();
    classifier.classify("film").unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Unparks a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What a future gives, which must come within a minute.
fn finished<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let last = Instant::now() + Duration::from_secs(60);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => {
                std::thread::park_timeout(last - Instant::now());
                assert!(Instant::now() < last, "nobody has woken who waits");
            }
        }
    }
}

#[test]
fn a_call_that_waits_for_a_thread_may_be_cancelled_or_be_late() {
    let dir = Dir::default();
    let classifier = Arc::new(Classifier::open(tiny_bundle(&dir), &Options::default()).unwrap());
    let background = Background::new(classifier);
    let submit = |timeout: Option<Duration>, done: Box<dyn FnOnce(nimbert::Result<Vec<Prediction>>) + Send>| {
        let options = BackgroundOptions { timeout, ..BackgroundOptions::default() };
        background.submit(vec!["a great film".to_owned().into()], options, done)
    };
    // As many calls as there can be threads, each of which keeps its own until it is let go.
    let (told, busy) = channel();
    let (let_go, held) = channel::<()>();
    let held = Arc::new(Mutex::new(held));
    for _ in 0..16 {
        let (told, held) = (told.clone(), Arc::clone(&held));
        submit(
            None,
            Box::new(move |result| {
                told.send(result.is_ok()).unwrap();
                // Until its sender is gone.
                let _ = held.lock().map(|held| held.recv());
            }),
        );
    }
    for _ in 0..16 {
        assert!(busy.recv_timeout(PATIENCE).unwrap());
    }
    let answer = |timeout: Option<Duration>| {
        let (tell, answer) = channel();
        (submit(timeout, Box::new(move |result| tell.send(result).unwrap())), answer)
    };
    let (cancelled, of_cancelled) = answer(None);
    let (_, of_late) = answer(Some(Duration::from_millis(1)));
    let (waiting, of_waiting) = answer(None);
    cancelled.cancel();
    assert!(matches!(of_cancelled.recv_timeout(PATIENCE).unwrap(), Err(Error::Cancelled)));
    assert!(matches!(of_late.recv_timeout(PATIENCE).unwrap(), Err(Error::DeadlinePassed)));
    assert!(cancelled.is_done() && !waiting.is_done());
    drop(let_go);
    assert_eq!(of_waiting.recv_timeout(PATIENCE).unwrap().unwrap().len(), 1);
}

#[test]
fn queued_calls_of_one_thread_get_the_answers_of_calls_alone() {
    let dir = Dir::default();
    let classifier = Arc::new(Classifier::open(tiny_bundle(&dir), &Options::default()).unwrap());
    let texts = texts(100);
    let queue = |text: &String| classifier.enqueue([text], CallOptions::default()).unwrap();
    let queued: Vec<_> = texts.iter().map(queue).collect();
    for (text, queued) in texts.iter().zip(queued) {
        let (answers, timing) = finished(queued).unwrap();
        let alone = classifier.classify(text).unwrap();
        assert_eq!((answers.len(), &answers[0].label), (1, &alone.label));
        assert!((answers[0].score - alone.score).abs() < 1e-5, "{} and {}", answers[0].score, alone.score);
        assert!(timing.inference > Duration::ZERO && timing.tokenization > Duration::ZERO);
    }
}

#[test]
fn a_queued_call_that_is_dropped_leaves_the_queue() {
    let dir = Dir::default();
    // No batch is full, and none is run for an hour.
    let options = Options { queue_limit: Some(2), max_wait: Duration::from_secs(3600), ..Options::default() };
    let classifier = Arc::new(Classifier::open(tiny_bundle(&dir), &options).unwrap());
    let queue = || classifier.enqueue(["a great film"], CallOptions::default());
    let (first, second) = (queue().unwrap(), queue().unwrap());
    assert!(matches!(queue(), Err(Error::QueueFull { limit: 2 })));
    drop(first);
    let third = queue().unwrap();
    assert!(matches!(queue(), Err(Error::QueueFull { limit: 2 })));
    drop((second, third));
    let cancel = AtomicBool::new(true);
    let cancelled =
        classifier.enqueue(["a great film"], CallOptions { cancel: Some(&cancel), ..CallOptions::default() });
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

#[test]
fn a_text_that_needs_too_much_memory_is_refused() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let options = |memory_limit| Options { memory_limit: Some(memory_limit), ..Options::default() };
    let enough = Classifier::open(&bundle, &options(8 << 30)).unwrap();
    assert_eq!(enough.classify_batch(&texts(50)).unwrap().len(), 50);
    let little = Classifier::open(&bundle, &options(1 << 20)).unwrap();
    let error = little.classify("film").unwrap_err();
    assert!(matches!(error, Error::MemoryLimit { .. }) && error.to_string().contains("of the memory limit"), "{error}");
}

#[test]
fn fast_math_is_an_error_where_there_is_none() {
    #[cfg(all(target_arch = "aarch64", target_os = "linux"))]
    if std::arch::is_aarch64_feature_detected!("bf16") {
        return;
    }
    let dir = Dir::default();
    let mut options = Options::default();
    options.set("fast_math", "true").unwrap();
    let error = Classifier::open(tiny_bundle(&dir), &options).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }) && error.to_string().contains("bfloat16"), "{error}");
}

#[test]
fn a_graph_that_was_compiled_gives_the_same_answers_and_a_broken_one_is_made_again() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let cache = dir.path("cache");
    let plain = Classifier::open(&bundle, &Options::default()).unwrap();
    let open = || Classifier::open(&bundle, &Options { cache: Some(cache.clone()), ..Options::default() }).unwrap();
    let check = |classifier: &Classifier| {
        for text in texts(20) {
            let (expected, got) = (plain.classify(&text).unwrap(), classifier.classify(&text).unwrap());
            assert!((expected.score - got.score).abs() < 1e-5);
        }
    };
    check(&open());
    let entry = || fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(entry().len(), 1);
    check(&open());
    let graph = entry()[0].join("graph.onnx");
    fs::write(&graph, "no graph").unwrap();
    check(&open());
    assert_ne!(fs::read(&graph).unwrap(), b"no graph");
    // A cache that cannot be written is no reason to fail.
    let blocked = dir.write("blocked", "a file");
    check(&Classifier::open(&bundle, &Options { cache: Some(blocked), ..Options::default() }).unwrap());
}

/// A bundle that lists another's digests would have flipped the other's answers from its first use on.
#[test]
fn a_compiled_graph_is_made_of_the_bytes_that_it_is_named_by() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let (cache, graph) = (dir.path("cache"), bundle.join("model.onnx"));
    let options = || Options { cache: Some(cache.clone()), ..Options::default() };
    let whole = fs::read(&graph).unwrap();
    // A byte of the last weights: the graph loads, and answers otherwise.
    let mut damaged = whole.clone();
    let place = damaged.len() - 2000;
    damaged[place] ^= 0x40;
    fs::write(&graph, &damaged).unwrap();
    let error = Classifier::open(&bundle, &options()).map(drop).unwrap_err();
    assert!(matches!(&error, Error::Checksum { path, .. } if *path == graph), "{error}");
    assert!(fs::read_dir(&cache).map_or(0, Iterator::count) == 0, "something was kept");
    fs::write(&graph, &whole).unwrap();
    let expected = Classifier::open(&bundle, &Options::default()).unwrap().classify("a great film").unwrap();
    let got = Classifier::open(&bundle, &options()).unwrap().classify("a great film").unwrap();
    assert!((got.score - expected.score).abs() < 1e-5);
}

/// ONNX Runtime 1.31 from PyPI would write a device's id and a database of events.
#[test]
fn nothing_is_written_below_the_users_folder() {
    let dir = Dir::default();
    let (bundle, home) = (tiny_bundle(&dir), dir.path("home"));
    fs::create_dir(&home).unwrap();
    let train = ["nimbert-train", "trace"];
    for [name, command] in [["nimbert", "classify"], ["nimbert", "verify"], train] {
        let mut command = {
            let mut program = program(name);
            program.arg(command);
            program
        };
        command.arg(&bundle).env("HOME", &home).env_remove("XDG_CACHE_HOME").env_remove("ORT_DISABLE_TELEMETRY");
        let text = if command.get_args().any(|argument| argument == "verify") { None } else { Some("a great film") };
        finish(command.args(text)).success();
        assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "{command:?}");
    }
}

#[test]
fn messages_that_nobody_reads_end_nothing() {
    let dir = Dir::default();
    let (input, output) =
        (dir.write("in.jsonl", "broken\n".repeat(40) + "{\"text\": \"film\"}\n"), dir.path("out.jsonl"));
    let mut command = classify(&tiny_bundle(&dir), &input, &output, &["--on-error", "skip"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_to_string(output).unwrap().lines().count(), 41);
}

/// As `nohup` starts a program, which goes on when its terminal is closed.
#[cfg(unix)]
#[test]
fn a_hangup_that_is_ignored_stays_so() {
    let dir = Dir::default();
    let (bundle, data) = (tiny_bundle(&dir), dir.write("data.csv", small_csv(400)));
    let rows: String = texts(40_000).iter().map(|text| format!("\"{text}\"\n")).collect();
    let (input, output) = (dir.write("rows.csv", format!("text\n{rows}")), dir.path("out.jsonl"));
    let fitted = dir.path("fitted");
    let mut fit = fit(&base("bert"), &data, &fitted);
    fit.args(["--epochs", "40"]);
    let runs = [
        (classify(&bundle, &input, &output, &[]), dir.path("out.jsonl.partial"), output),
        (fit, dir.path("fitted.checkpoint"), fitted),
    ];
    for (command, begun, made) in runs {
        let mut nohup = Command::new("nohup");
        nohup.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut child = nohup.envs(variables).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while !fs::metadata(&begun).is_ok_and(|metadata| metadata.len() > 0) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before the hangup");
        let mut hangup = Command::new("kill");
        assert!(hangup.arg("-HUP").arg(child.id().to_string()).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{}", made.display());
        assert!(made.exists());
    }
}

fn classify(bundle: &Path, input: &Path, output: &Path, arguments: &[&str]) -> Command {
    let mut command = program("nimbert");
    command.arg("classify").arg(bundle).arg("--input").arg(input).arg("--output").arg(output).args(arguments);
    command
}

#[test]
fn what_was_killed_is_resumed_and_ends_with_the_same_output() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let rows = texts(40_000);
    let csv: String = rows.iter().enumerate().map(|(row, text)| format!("{row},\"{text}\nend\"\n")).collect();
    let input = dir.write("rows.csv", format!("id,text\n{csv}"));
    for name in ["out.csv", "out.jsonl"] {
        let whole = dir.path(&format!("whole-{name}"));
        finish(&mut classify(&bundle, &input, &whole, &[])).success();
        let output = dir.path(name);
        let partial = dir.path(&format!("{name}.partial"));
        let mut killed = 0;
        for _ in 0..4 {
            let mut command = classify(&bundle, &input, &output, &["--resume"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let before = fs::metadata(&partial).map_or(0, |metadata| metadata.len());
            let started = Instant::now();
            while fs::metadata(&partial).map_or(0, |metadata| metadata.len()) <= before
                && child.try_wait().unwrap().is_none()
                && started.elapsed() < Duration::from_secs(60)
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            killed += u32::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(killed > 0, "it ended before it was killed");
        let finished = finish(&mut classify(&bundle, &input, &output, &["--resume"]));
        assert_eq!(finished.status, Some(0), "{}", finished.stderr);
        assert!(finished.stderr.contains("are there already"), "{}", finished.stderr);
        assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap(), "{name} differs");
        assert!(!partial.exists());
    }
    // Another input is other work.
    let (output, other) = (dir.path("out.jsonl"), dir.write("other.csv", "text\nfilm\n"));
    fs::write(dir.path("out.jsonl.partial"), "{}\n").unwrap();
    fs::write(dir.path("out.jsonl.partial.json"), "{}").unwrap();
    finish(&mut classify(&bundle, &other, &output, &["--resume"]))
        .failure(2, &["--resume: expected the --input of", "other.csv"]);
    // What a loss of power leaves of a run that had written nothing yet.
    fs::write(dir.path("out.jsonl.partial"), "").unwrap();
    fs::write(dir.path("out.jsonl.partial.json"), "").unwrap();
    finish(&mut classify(&bundle, &other, &output, &["--resume"])).success();
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), 1);
}

#[test]
fn bad_rows_are_skipped_if_asked() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let input = dir.write("rows.jsonl", "{\"text\": \"film\"}\nbroken\n{\"body\": 1}\n{\"text\": \"great\"}\n");
    let output = dir.path("labels.csv");
    finish(&mut classify(&bundle, &input, &output, &[])).failure(2, &["rows.jsonl:2:1: expected a JSON object"]);
    let finished = finish(&mut classify(&bundle, &input, &output, &["--on-error", "skip"]));
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    for message in ["rows.jsonl:2:1", "rows.jsonl:3: expected a key \"text\"", "2 rows were skipped"] {
        assert!(finished.stderr.contains(message), "{}", finished.stderr);
    }
    let csv = fs::read_to_string(&output).unwrap();
    assert_eq!(csv.lines().next(), Some("text,label,score,score negative,score positive,id,error"));
    assert_eq!(csv.lines().count(), 5);
}

#[test]
fn fields_that_may_hold_rows_are_told_once() {
    let dir = Dir::default();
    let (bundle, output) = (tiny_bundle(&dir), dir.path("labels.csv"));
    let rows: String = (0..5).map(|row| format!("{row},\"great\n7,film\"\n")).collect();
    let input = dir.write("rows.csv", format!("id,text\n{rows}"));
    let finished = finish(&mut classify(&bundle, &input, &output, &[]));
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    let told: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("rows.csv")).collect();
    assert!(told[0].contains("rows.csv:2: a quoted field runs over lines"), "{told:?}");
    assert!(told[1].ends_with("rows.csv: 4 further rows have such a field") && told.len() == 2, "{told:?}");
    let mut twice = classify(&bundle, &input, &dir.path("other.csv"), &["--text-pair-column", "text"]);
    finish(&mut twice).failure(2, &["--text-pair-column: expected another column than that of --text-column"]);
}

/// A line is answered when it has come, not when many have.
#[test]
fn lines_that_come_slowly_are_answered_at_once() {
    use std::io::{BufRead, BufReader, Write};
    let dir = Dir::default();
    let mut command = program("nimbert");
    command.arg("classify").arg(tiny_bundle(&dir)).args(["--input", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    for text in ["film", "great"] {
        writeln!(stdin, "{text}").unwrap();
        let Ok(line) = lines.recv_timeout(Duration::from_secs(60)) else {
            child.kill().unwrap();
            panic!("{text:?} is not answered before the next line comes");
        };
        assert!(line.ends_with(&format!("\t{text}")), "{line:?}");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
