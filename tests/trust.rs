//! What an attack on bundles found, each as a test: an answer comes from the bytes that were judged and signed, or there is
//! none. (`vectors.rs` has faults of manifests, `attack.rs` changes bytes, `runtime/tests/serve.rs` attacks the server.)

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use candle_onnx::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, StringStringEntryProto,
    TensorProto, attribute_proto::AttributeType,
};
use nimbert::{Classifier, Error, Operators, Options, Prediction, SessionOptions, Tokenizer, Verify};
use nimbert_tests::{Dir, copy_folder, finish, program, seal, tiny_bundle, workspace};
use prost::Message;

const TEXTS: [&str; 3] = ["a great film", "terrible , a thin plot", "one of the year 's best films , great acting"];

fn copied(dir: &Dir, name: &str) -> PathBuf {
    copy_folder(&workspace("tests/data/bundle-2"), dir.path(name))
}

fn open(bundle: &Path, options: &Options) -> nimbert::Result<Classifier> {
    Classifier::open(bundle, options)
}

fn answers(classifier: &Classifier) -> Vec<Vec<f32>> {
    classifier.classify_batch(TEXTS).unwrap().into_iter().map(|prediction| prediction.logits).collect()
}

/// Sets every time of a file to a day ago, as far as that can be set: what is fresh is not remembered.
fn age(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let file = fs::File::open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(86_400)).unwrap();
    }
}

#[test]
fn signed_verified_rotated_and_tampered_with() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let path = |name: &str| dir.path(name).to_str().unwrap().to_owned();
    let train = |arguments: &[&str]| finish(program("nimbert-train").args(arguments));
    let nimbert = |arguments: &[&str]| {
        let [command, rest @ ..] = arguments else { unreachable!() };
        finish(program("nimbert").arg(command).arg(&bundle).args(rest))
    };
    for name in ["old", "new", "other"] {
        let (key, public) = (path(&format!("{name}.key")), path(&format!("{name}.pub")));
        train(&["keygen", "--no-password", "--key", &key, "--public-key", &public]).success();
        train(&["keygen", "--no-password", "--key", &key, "--public-key", &public]).failure(2, &["never replaced"]);
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(path("old.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let (old, new, other) = (path("old.pub"), path("new.pub"), path("other.pub"));
    let folder = bundle.to_str().unwrap();
    nimbert(&["verify", "--public-key", &old]).failure(2, &["nimbert.json.minisig", "found no signature"]);
    train(&["sign", folder, "--key", &path("old.key")]).success();
    assert!(nimbert(&["verify", "--public-key", &old]).success().contains("signed (timestamp:"));
    assert!(nimbert(&["verify"]).success().contains("its signature was not looked at"));
    assert!(nimbert(&["info"]).success().contains("not verified here"));
    nimbert(&["verify", "--public-key", &other]).failure(2, &["found another key's"]);
    nimbert(&["classify", "a great film", "--require-signature", &other]).failure(2, &["found another key's"]);
    nimbert(&["classify", "a great film", "--require-signature", &old]).success();
    // Where keys change, both are asked for until the last bundle of the old one is gone.
    train(&["sign", folder, "--key", &path("new.key")]).success();
    nimbert(&["verify", "--public-key", &old]).failure(2, &["another key's"]);
    let both = ["classify", "a great film", "--require-signature", &old, "--require-signature", &new];
    nimbert(&both).success();
    // The line of a key will do.
    let line = fs::read_to_string(&new).unwrap().lines().nth(1).unwrap().to_owned();
    nimbert(&["verify", "--public-key", &line]).success();
    nimbert(&["verify", "--public-key", "nonsense"]).failure(2, &["nonsense"]);
    // It is one, though a file of its name has another.
    fs::create_dir_all(dir.path(&line).parent().unwrap()).unwrap();
    fs::copy(&other, dir.path(&line)).unwrap();
    let mut there = program("nimbert");
    finish(there.current_dir(dir.path("")).arg("verify").arg(&bundle).args(["--public-key", &line])).success();
    // A byte anywhere, the signature's own comment line excepted.
    let keys = vec![line.parse().unwrap()];
    let options = Options { require_signature: keys, ..Options::default() };
    // What is not compared is not what was signed.
    let unseen = open(&bundle, &Options { verify: Verify::Never, ..options.clone() });
    assert!(matches!(unseen, Err(Error::Setting { ref name, .. }) if name == "verify"), "{unseen:?}");
    for entry in fs::read_dir(&bundle).unwrap() {
        let file = entry.unwrap().path();
        let whole = fs::read(&file).unwrap();
        let first_line = whole.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let is_signature = file.ends_with("nimbert.json.minisig");
        for step in 1..=8 {
            let mut changed = whole.clone();
            let place = (whole.len() - 2) * step / 8;
            if is_signature && place <= first_line {
                continue;
            }
            changed[place] ^= 1;
            fs::write(&file, &changed).unwrap();
            let error = open(&bundle, &options).and_then(|_| nimbert::Bundle::open(&bundle)?.verify()).unwrap_err();
            assert!(matches!(error, Error::Signature { .. } | Error::Checksum { .. }), "{}: {error}", file.display());
        }
        fs::write(&file, &whole).unwrap();
    }
    open(&bundle, &options).unwrap();
    // One that was changed is not signed.
    let config = fs::read_to_string(bundle.join("config.json")).unwrap();
    fs::write(bundle.join("config.json"), config.replacen("negative", "positivE", 1)).unwrap();
    train(&["sign", folder, "--key", &path("new.key")]).failure(2, &["config.json", "damaged"]);
}

#[test]
fn a_key_with_a_password_signs_with_it_only() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let (key, public) = (dir.path("nimbert.key"), dir.path("nimbert.pub"));
    let (right, wrong, none) =
        (dir.write("right", "correct horse\n"), dir.write("wrong", "battery\n"), dir.write("none", "\n"));
    let keygen = |password: Option<&Path>| {
        let mut command = program("nimbert-train");
        command.arg("keygen").arg("--key").arg(&key).arg("--public-key").arg(&public);
        command.args(password.map(|file| format!("--password-file={}", file.display())));
        finish(command.stdin(std::process::Stdio::null()))
    };
    keygen(None).failure(2, &["expected a terminal", "--no-password"]);
    keygen(Some(&none)).failure(2, &["expected a password"]);
    keygen(Some(&right)).success();
    assert!(!fs::read_to_string(&key).unwrap().contains("correct"));
    let sign = |password: Option<&Path>| {
        let mut command = program("nimbert-train");
        command.arg("sign").arg(&bundle).arg("--key").arg(&key);
        command.args(password.map(|file| format!("--password-file={}", file.display())));
        finish(command.stdin(std::process::Stdio::null()))
    };
    sign(None).failure(2, &["--password-file"]);
    sign(Some(&wrong)).failure(2, &["nimbert.key", "password"]);
    sign(Some(&right)).success();
    let key = nimbert::PublicKey::open(&public).unwrap();
    nimbert::Bundle::open_signed(&bundle, &[key]).unwrap();
}

/// A damaged graph is found at the first opening, at every later one, and when it is damaged between two.
#[test]
fn what_was_compared_once_is_compared_again_when_it_has_changed() {
    let dir = Dir::default();
    let bundle = copied(&dir, "bundle");
    let graph = bundle.join("model.onnx");
    let whole = fs::read(&graph).unwrap();
    let mut damaged = whole.clone();
    let place = damaged.len() - 2000;
    damaged[place] ^= 0x40;
    let options = |verify| Options { cache: Some(dir.path("cache")), verify, ..Options::default() };
    let refused =
        |verify| matches!(open(&bundle, &options(verify)), Err(Error::Checksum { path, .. }) if path == graph);
    fs::write(&graph, &damaged).unwrap();
    assert!(refused(Verify::Once) && refused(Verify::Once) && refused(Verify::Always));
    fs::write(&graph, &whole).unwrap();
    age(&bundle);
    std::thread::sleep(Duration::from_millis(2100));
    let expected = answers(&open(&bundle, &options(Verify::Once)).unwrap());
    assert_eq!(answers(&open(&bundle, &options(Verify::Once)).unwrap()), expected);
    let notes = || fs::read_dir(dir.path("cache/verified")).map_or(0, Iterator::count);
    assert!(notes() > 0);
    // The size is the same, and the time of modification is set back: that of the change cannot be.
    let modified = fs::metadata(&graph).unwrap().modified().unwrap();
    fs::write(&graph, &damaged).unwrap();
    fs::File::open(&graph).unwrap().set_modified(modified).unwrap();
    assert!(refused(Verify::Once) && refused(Verify::Always));
    // Who says never gets the compiled form, which is right, or the damaged graph.
    assert_eq!(answers(&open(&bundle, &options(Verify::Never)).unwrap()), expected);
    let uncached = Options { verify: Verify::Never, ..Options::default() };
    assert_ne!(answers(&open(&bundle, &uncached).unwrap()), expected);
}

/// Of 700 flipped bits in a compiled graph, 129 gave other answers.
#[test]
fn a_compiled_graph_that_has_changed_is_made_anew() {
    let dir = Dir::default();
    let bundle = copied(&dir, "bundle");
    let options = Options { cache: Some(dir.path("cache")), ..Options::default() };
    let expected = answers(&open(&bundle, &options).unwrap());
    let is_entry = |path: &Path| path.join("graph.onnx").exists();
    let entries = fs::read_dir(dir.path("cache")).unwrap().map(|entry| entry.unwrap().path());
    let entry = entries.into_iter().find(|path| is_entry(path)).unwrap();
    for file in ["graph.onnx", "graph.data", "digests.json"].map(|name| entry.join(name)) {
        let whole = fs::read(&file).unwrap();
        for step in 0..20 {
            let mut changed = whole.clone();
            changed[(whole.len() - 1) * step / 19] ^= 0x40;
            // As a disk would do it, the file's rights notwithstanding.
            fs::remove_file(&file).unwrap();
            fs::write(&file, &changed).unwrap();
            assert_eq!(answers(&open(&bundle, &options).unwrap()), expected, "{}", file.display());
            assert_eq!(fs::read(&file).unwrap(), whole);
        }
    }
}

/// A file that is mapped and becomes shorter ends the process by a signal.
#[test]
fn files_may_be_cut_short_and_replaced_while_a_classifier_is_open() {
    for cache in [None, Some("cache")] {
        let dir = Dir::default();
        let bundle = copied(&dir, "bundle");
        let options = Options { cache: cache.map(|name| dir.path(name)), ..Options::default() };
        let classifier = open(&bundle, &options).unwrap();
        let expected = answers(&classifier);
        for entry in fs::read_dir(&bundle).unwrap() {
            fs::File::options().write(true).open(entry.unwrap().path()).unwrap().set_len(10).unwrap();
        }
        // Sessions that are opened only now, for calls that overlap, get the same bytes or none.
        let (classifier, expected) = (&classifier, &expected);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    for _ in 0..20 {
                        for (text, expected) in TEXTS.iter().zip(expected) {
                            let got = classifier.classify(text).unwrap().logits;
                            assert!(got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-4));
                        }
                    }
                });
            }
        });
        fs::remove_dir_all(&bundle).unwrap();
        assert_eq!(answers(classifier).len(), 3);
    }
}

fn graph() -> ModelProto {
    ModelProto::decode(fs::read(workspace("tests/data/bundle-2/model.onnx")).unwrap().as_slice()).unwrap()
}

fn node(op_type: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

fn tensor(name: &str, dims: &[i64], data_type: i32, raw_data: Vec<u8>) -> TensorProto {
    TensorProto { name: name.to_owned(), dims: dims.to_vec(), data_type, raw_data, ..TensorProto::default() }
}

fn external(name: &str, location: &str) -> TensorProto {
    let entry = |(key, value): (&str, &str)| StringStringEntryProto { key: key.to_owned(), value: value.to_owned() };
    TensorProto {
        data_location: 1,
        external_data: [("location", location), ("offset", "0"), ("length", "8192")].map(entry).to_vec(),
        ..tensor(name, &[64, 32], 1, Vec::new())
    }
}

/// What the model says of a bundle whose graph was changed, and whose digests fit.
fn with_graph(dir: &Dir, name: &str, change: impl FnOnce(&mut ModelProto)) -> nimbert::Result<Vec<Prediction>> {
    let bundle = copied(dir, name);
    seal::replace(&bundle, "model.onnx_data", &[0; 8192]);
    let mut model = graph();
    change(&mut model);
    seal::replace(&bundle, "model.onnx", &model.encode_to_vec());
    open(&bundle, &Options::default())?.classify_batch(TEXTS)
}

#[test]
fn graphs_that_harm_are_refused_before_they_are_loaded() {
    type Change = fn(&mut ModelProto);
    fn inner(model: &mut ModelProto) -> &mut GraphProto {
        model.graph.as_mut().unwrap()
    }
    fn prepend(model: &mut ModelProto, nodes: Vec<NodeProto>) {
        inner(model).node.splice(0..0, nodes);
    }
    fn with_body(op_type: &str) -> NodeProto {
        let body = GraphProto { node: vec![node("Identity", &["a"], "b")], ..GraphProto::default() };
        let attribute = AttributeProto {
            name: "body".to_owned(),
            r#type: AttributeType::Graph.into(),
            g: Some(body),
            ..Default::default()
        };
        NodeProto { attribute: vec![attribute], ..node(op_type, &["", "mask/one"], "endless") }
    }
    const INT64: i32 = 7;
    let changes: [(&str, Change, &str); 16] = [
        ("loop", |model| prepend(model, vec![with_body("Loop")]), "\"Loop\""),
        ("if", |model| prepend(model, vec![with_body("If")]), "\"If\""),
        // In an operator that is known.
        (
            "body",
            |model| prepend(model, vec![NodeProto { input: vec!["mask/one".to_owned()], ..with_body("Identity") }]),
            "type 5",
        ),
        ("functions", |model| model.functions.push(FunctionProto::default()), "functions"),
        ("sparse", |model| inner(model).sparse_initializer.push(SparseTensorProto::default()), "sparse"),
        (
            "constant-of-shape",
            |model| {
                let size = (1i64 << 30).to_le_bytes().to_vec();
                inner(model).initializer.push(tensor("size", &[1], INT64, size));
                prepend(model, vec![node("ConstantOfShape", &["size"], "bomb")]);
            },
            "2^26",
        ),
        (
            "expand-of-products",
            |model| {
                inner(model).initializer.push(tensor("size", &[1], INT64, (1i64 << 20).to_le_bytes().to_vec()));
                let nodes =
                    vec![node("Mul", &["size", "size"], "squared"), node("Expand", &["mask/one", "squared"], "bomb")];
                prepend(model, nodes);
            },
            "2^26",
        ),
        (
            "layer-normalization-of-nothing",
            |model| {
                inner(model).initializer.push(tensor("nothing", &[0], 1, Vec::new()));
                prepend(model, vec![node("LayerNormalization", &["nothing", "nothing"], "crash")]);
            },
            "nothing",
        ),
        (
            "layer-normalization-of-no-input",
            |model| prepend(model, vec![node("LayerNormalization", &["", ""], "crash")]),
            "LayerNormalization",
        ),
        ("above", |model| inner(model).initializer.push(external("a", "../secret")), "../secret"),
        ("absolute", |model| inner(model).initializer.push(external("a", "/etc/passwd")), "/etc/passwd"),
        ("memory", |model| inner(model).initializer.push(external("a", "*/_ORT_MEM_ADDR_/*")), "_ORT_MEM_ADDR_"),
        ("short", |model| inner(model).initializer[0].raw_data.truncate(3), "bytes"),
        ("huge", |model| inner(model).initializer[0].dims = vec![i64::MAX, i64::MAX], ""),
        ("other-operator", |model| inner(model).node[3].op_type = "RandomNormal".to_owned(), "RandomNormal"),
        ("other-domain", |model| inner(model).node[3].domain = "mine".to_owned(), "mine"),
    ];
    let dir = Dir::default();
    for (name, change, part) in changes {
        let error = with_graph(&dir, name, change).expect_err(name);
        assert!(matches!(&error, Error::Format { path, .. } if path.ends_with("model.onnx")), "{name}: {error}");
        assert!(error.to_string().contains(part), "{name}: no {part:?} in {error}");
    }
    // Bytes that merge into one graph, of which a reader that looks at one sees another.
    let bundle = copied(&dir, "two-graphs");
    let doubled =
        [fs::read(bundle.join("model.onnx")).unwrap(), ModelProto { opset_import: vec![], ..graph() }.encode_to_vec()];
    seal::replace(&bundle, "model.onnx", &doubled.concat());
    let error = open(&bundle, &Options::default()).unwrap_err();
    assert!(matches!(&error, Error::Format { got, .. } if got.contains("twice")), "{error}");
    // A graph of one's own may have operators of its own, and no more.
    let bundle = copied(&dir, "own");
    let mut own = graph();
    prepend(&mut own, vec![node("HardSwish", &["mask/one"], "unused")]);
    seal::replace(&bundle, "model.onnx", &own.encode_to_vec());
    assert!(matches!(open(&bundle, &Options::default()), Err(Error::Format { .. })));
    let session = SessionOptions { operators: Operators::Any, ..SessionOptions::default() };
    answers(&open(&bundle, &Options { session, ..Options::default() }).unwrap());
}

/// They gave a label with the score null, and exit status 0.
#[test]
fn logits_that_are_no_numbers_have_no_label() {
    let dir = Dir::default();
    for (name, value) in [("nan", f32::NAN), ("infinite", f32::INFINITY)] {
        let change = |model: &mut ModelProto| {
            let mut tensors = model.graph.as_mut().unwrap().initializer.iter_mut();
            let bias = tensors.find(|tensor| tensor.name == "logits/bias").unwrap();
            bias.raw_data[..4].copy_from_slice(&value.to_le_bytes());
        };
        let error = with_graph(&dir, name, change).unwrap_err();
        assert!(matches!(&error, Error::Session { .. }) && error.to_string().contains("numbers"), "{error}");
        finish(program("nimbert").arg("classify").arg(dir.path(name)).arg("a great film")).failure(1, &["logits"]);
    }
}

/// Each made the tokenizers crate panic, never end, overflow the stack, or ask for gigabytes.
#[test]
fn tokenizers_that_harm_are_errors() {
    let dir = Dir::default();
    let model = r#""model":{"type":"WordLevel","vocab":{"u":0},"unk_token":"u"}"#;
    let added = |content: &str, flags: &str| {
        let mut flags_of = serde_json::json!({
            "id": 1, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false
        });
        flags.split_whitespace().for_each(|flag| flags_of[flag] = true.into());
        flags_of.to_string()
    };
    let nested = |count: usize, part: &str| vec![part; count].join(",");
    let sequence =
        |key: &str, name: &str, parts: &str| format!(r#"{{"{key}":{{"type":"Sequence","{name}":[{parts}]}},{model}}}"#);
    let normalizers = |parts: &str| sequence("normalizer", "normalizers", parts);
    let lower = r#"{"type":"Lowercase"}"#;
    let replace =
        |pattern: &str, content: &str| format!(r#"{{"type":"Replace","pattern":{pattern},"content":"{content}"}}"#);
    let split = |pattern: &str| {
        let pattern = serde_json::json!({ "Regex": pattern });
        format!(
            r#"{{"pre_tokenizer":{{"type":"Split","pattern":{pattern},"behavior":"Isolated","invert":false}},{model}}}"#
        )
    };
    let template = |single: &str| {
        format!(
            r#"{{"post_processor":{{"type":"TemplateProcessing","single":[{single}],"pair":[],"special_tokens":{{}}}},{model}}}"#
        )
    };
    let tokenizers = [
        // Panics.
        format!(r#"{{"normalizer":{{"type":"Precompiled","precompiled_charsmap":"@"}},{model}}}"#),
        r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[["a","b"]]}}"#.to_owned(),
        r###"{"model":{"type":"BPE","continuing_subword_prefix":"##","vocab":{"a":0,"b":1},"merges":[["a","b"]]}}"###.to_owned(),
        r##"{"model":{"type":"BPE","continuing_subword_prefix":"#","vocab":{"a":0,"é":1,"abcdef":2},"merges":[["a","é"]]}}"##.to_owned(),
        template(r#"{"SpecialToken":{"id":"x","type_id":0}}"#),
        template(r#"{"Sequence":{"id":"B","type_id":0}}"#),
        format!(r#"{{"pre_tokenizer":{{"type":"FixedLength","length":0}},{model}}}"#),
        normalizers(&format!("{},{lower}", replace(r#"{"Regex":"\\s*"}"#, " "))),
        normalizers(&format!("{},{lower}", replace(r#"{"String":""}"#, " "))),
        normalizers(&format!(r#"{{"type":"Prepend","prepend":""}},{lower}"#)),
        format!(r#"{{"normalizer":{{"type":"Precompiled","precompiled_charsmap":"AAAAAA=="}},{model}}}"#),
        format!(r#"{{"added_tokens":[{},{}],{model}}}"#, added("x", "rstrip"), added(" ", "lstrip")),
        format!(r#"{{"normalizer":{{"type":"StripAccents"}},"added_tokens":[{}],{model}}}"#, added("\u{301}", "normalized")),
        // What says not of which type it is, says it twice, or has no names: the library takes it all the same.
        normalizers(&nested(40, r#"{"pattern":{"String":"a"},"content":"aa"}"#)),
        normalizers(&nested(40, r#"{"type":"Foo","pattern":{"String":"a"},"content":"aa"}"#)),
        normalizers(&nested(40, r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa","type":"Lowercase"}"#)),
        format!(r#"{{"post_processor":[[{}],[],{{}}],{model}}}"#, nested(40, r#"{"Sequence":{"id":"A","type_id":0}}"#)),
        format!(r#"{{"added_tokens":[[1," ",false,false,true,false,false]],{model}}}"#),
        // What never ends, or asks for any amount of memory.
        format!(
            r#"{{"normalizer":{{"type":"Strip","strip_left":true,"strip_right":true}},"added_tokens":[{},{}],{model}}}"#,
            added(" ", "normalized single_word"),
            added("ab", "normalized")
        ),
        split("(?:(?=a)(?=a)){999999999999}"),
        split("(?<=\\Ka)"),
        split(r"(?:(a|\1b)c)+"),
        normalizers(&nested(40, &replace(r#"{"String":"a"}"#, "aa"))),
        template(&nested(40, r#"{"Sequence":{"id":"A","type_id":0}}"#)),
        format!(r#"{{"added_tokens":[{}],{model}}}"#, added(" ", "rstrip")),
        r###"{"model":{"type":"WordPiece","unk_token":"u","continuing_subword_prefix":"##","max_input_chars_per_word":1000000000,"vocab":{"u":0}}}"###.to_owned(),
        format!(r#"{{"added_tokens":[{}],{model}}}"#, added(&("a".repeat(1 << 20) + "b"), "")),
        format!(r#"{{"normalizer":{{"type":"Precompiled","precompiled_charsmap":"/////w=="}},{model}}}"#),
        // A tree that overflows the stack when it is dropped.
        format!(r#"{{"model":{{"type":"Unigram","unk_id":0,"vocab":[["{}",0.0]]}}}}"#, "u".repeat(300_000)),
    ];
    for (index, json) in tokenizers.iter().enumerate() {
        // The model answers from a special token: without one, all of these would be refused for that.
        let json = match json.contains("post_processor") {
            true => json.clone(),
            false => {
                json.replacen('{', r#"{"post_processor":{"type":"BertProcessing","sep":["u",0],"cls":["u",0]},"#, 1)
            }
        };
        let path = dir.write("tokenizer.json", &json);
        let started = Instant::now();
        let shown: String = json.chars().take(300).collect();
        match Tokenizer::open(&path, 32) {
            Err(Error::Format { .. } | Error::Tokenizer(_)) => {}
            Err(error) => panic!("{index}: {error}: {shown}"),
            Ok(tokenizer) => {
                let texts = ["x  ", "a", "ø", " a b  c ", "acb", "aaaa"];
                let refused = texts.iter().filter(|text| match tokenizer.encode(*text) {
                    Ok(_) => false,
                    Err(Error::Tokenizer(_)) => true,
                    Err(error) => panic!("{index}: {error}: {shown}"),
                });
                assert!(refused.count() > 0, "{index}: nothing is wrong: {shown}");
            }
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{index}: {:?}: {shown}", started.elapsed());
    }
}

/// A line of 16 MB took 2.4 GB under a limit of 100 MB.
#[cfg(target_os = "linux")]
#[test]
fn a_line_of_16_megabytes_is_answered_or_refused_within_the_limit() {
    let dir = Dir::default();
    let bundle = copied(&dir, "bundle");
    let megabytes = 16 * (1 << 20) - 10;
    for (name, line) in [("words", "a great film ".repeat(megabytes / 13)), ("word", "a".repeat(megabytes))] {
        let input = dir.write(&format!("{name}.txt"), line + "\na great film\n");
        for (limit, skips) in [(Some("100MB"), true), (None, false)] {
            let mut command = program("nimbert");
            command.arg("classify").arg(&bundle).arg("--input").arg(&input).args(["--on-error", "skip"]);
            command.args(limit.map(|limit| format!("--memory-limit={limit}")));
            let (peak, output) = peak_of(&mut command);
            let lines: Vec<&str> = output.lines().collect();
            assert_eq!((lines.len(), lines[0].starts_with("error")), (2, skips), "{name}, {limit:?}");
            // Without a limit, a word that cannot be cut takes what it takes.
            let most = if limit.is_some() { 100_000_000 } else { 2_400_000_000 / if name == "words" { 8 } else { 1 } };
            assert!(peak < most, "{name}, {limit:?}: {peak} bytes");
        }
    }
}

/// The most memory that a program holds, and its output.
#[cfg(target_os = "linux")]
fn peak_of(command: &mut std::process::Command) -> (u64, String) {
    use std::{io::Read, process::Stdio};
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let output = std::thread::spawn(move || {
        let mut output = String::new();
        stdout.read_to_string(&mut output).map(|_| output)
    });
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kilobytes.unwrap_or(0) * 1024);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(peak > 1_000_000, "{peak} bytes: no program is so small");
    (peak, output.join().unwrap().unwrap())
}

/// Bytes that are a harmless graph in ONNX's format, and another in the one that ONNX Runtime tells by four bytes.
#[test]
fn a_graph_is_read_in_the_format_in_which_it_was_checked() {
    let dir = Dir::default();
    let bundle = copied(&dir, "bundle");
    // A field that nobody knows, whose content has the mark where it is looked for: tag and length take four bytes.
    let mut bytes = vec![0xfa, 0x3f, 0x84, 0x00];
    bytes.extend(b"ORTM");
    bytes.extend(fs::read(bundle.join("model.onnx")).unwrap());
    seal::replace(&bundle, "model.onnx", &bytes);
    let error = open(&bundle, &Options::default()).unwrap_err();
    assert!(matches!(&error, Error::Format { got, .. } if got.contains("ONNX Runtime's own")), "{error}");
}

/// What is opened without comparing must not be kept under digests that it has not.
#[test]
fn what_was_not_compared_is_not_kept() {
    let dir = Dir::default();
    let (right, wrong) = (copied(&dir, "right"), copied(&dir, "wrong"));
    let mut damaged = fs::read(wrong.join("model.onnx")).unwrap();
    let place = damaged.len() - 2000;
    damaged[place] ^= 0x40;
    fs::write(wrong.join("model.onnx"), damaged).unwrap();
    let options = |verify| Options { cache: Some(dir.path("cache")), verify, ..Options::default() };
    let expected = answers(&open(&right, &Options::default()).unwrap());
    assert_ne!(answers(&open(&wrong, &options(Verify::Never)).unwrap()), expected);
    assert_eq!(answers(&open(&right, &options(Verify::Once)).unwrap()), expected);
}

/// By its name alone, an entry could be another's that somebody has renamed.
#[test]
fn an_entry_of_the_cache_is_used_for_what_it_was_made_for() {
    let dir = Dir::default();
    let (one, other) = (copied(&dir, "one"), copied(&dir, "other"));
    let mut changed = graph();
    let bias = changed.graph.as_mut().unwrap().initializer.iter_mut().find(|tensor| tensor.name == "logits/bias");
    bias.unwrap().raw_data[..4].copy_from_slice(&9f32.to_le_bytes());
    seal::replace(&other, "model.onnx", &changed.encode_to_vec());
    let cache = dir.path("cache");
    let options = Options { cache: Some(cache.clone()), ..Options::default() };
    let entry = || {
        let entries = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().find(|path| path.join("graph.onnx").exists()).unwrap()
    };
    let expected = answers(&open(&one, &options).unwrap());
    let name = entry();
    fs::remove_dir_all(&name).unwrap();
    assert_ne!(answers(&open(&other, &options).unwrap()), expected);
    fs::rename(entry(), &name).unwrap();
    assert_eq!(answers(&open(&one, &options).unwrap()), expected);
}

/// Each window's logits are numbers, and their sum is none.
#[test]
fn windows_whose_mean_is_no_number_have_no_label() {
    let dir = Dir::default();
    let bundle = copied(&dir, "bundle");
    let mut model = graph();
    let bias = model.graph.as_mut().unwrap().initializer.iter_mut().find(|tensor| tensor.name == "logits/bias");
    bias.unwrap().raw_data[..4].copy_from_slice(&3e38f32.to_le_bytes());
    seal::replace(&bundle, "model.onnx", &model.encode_to_vec());
    let manifest = bundle.join("nimbert.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    value["stride"] = 1.into();
    let content = fs::read(bundle.join("README.md")).unwrap();
    fs::write(&manifest, seal::manifest_with(&serde_json::to_vec(&value).unwrap(), "README.md", &content)).unwrap();
    let classifier = open(&bundle, &Options::default()).unwrap();
    assert_eq!(classifier.classify("a great film").unwrap().logits.len(), 2);
    let error = classifier.classify(&"a great film ".repeat(100)).unwrap_err();
    assert!(matches!(&error, Error::Session { .. }) && error.to_string().contains("numbers"), "{error}");
}
