//! A bundle in one file: opened, verified, signed and damaged as its folder is.

use std::{fs, path::Path, process::Command};

use nimbert::{Bundle, Classifier, Error, Options, PublicKey, Verify, bundle::BundleWriter};
use nimbert_tests::{Dir, copy_folder, finish, fit, program, small_csv, tiny_bundle, workspace};

const TEXTS: [&str; 3] = ["a great film", "terrible , a thin plot", "one of the year 's best films , great acting"];

fn pack(bundle: &Path, out: &Path, more: &[&str]) -> nimbert_tests::Finished {
    finish(program("nimbert-train").arg("pack").arg(bundle).arg("--out").arg(out).args(more))
}

fn answers(classifier: &Classifier) -> Vec<Vec<f32>> {
    classifier.classify_batch(TEXTS).unwrap().into_iter().map(|prediction| prediction.logits).collect()
}

/// Sets who may write to a file.
fn set_read_only(file: &Path, is_read_only: bool) {
    let mut permissions = fs::metadata(file).unwrap().permissions();
    permissions.set_readonly(is_read_only);
    fs::set_permissions(file, permissions).unwrap();
}

#[test]
fn a_folder_a_file_and_bytes_answer_alike_with_a_cache_and_without() {
    let dir = Dir::default();
    let (bundle, file) = (tiny_bundle(&dir), dir.path("reviews.nimbert"));
    assert!(pack(&bundle, &file, &[]).success().contains("MB"));
    let cached = Options { cache: Some(dir.path("cache")), ..Options::default() };
    let expected = answers(&Classifier::open(&bundle, &Options::default()).unwrap());
    let bytes: &'static [u8] = fs::read(&file).unwrap().leak();
    for options in [Options::default(), cached.clone(), cached, Options { verify: Verify::Never, ..Options::default() }]
    {
        // Mapped, and read where somebody may write to it.
        for is_read_only in [true, false] {
            set_read_only(&file, is_read_only);
            assert_eq!(answers(&Classifier::open(&file, &options).unwrap()), expected);
        }
        assert_eq!(answers(&Classifier::from_bytes(bytes, &options).unwrap()), expected);
    }
    // Every command takes either.
    for arguments in [&["classify", "a great film", "--json"][..], &["verify"], &["info"]] {
        let run = |bundle: &Path| {
            let output = finish(program("nimbert").arg(arguments[0]).arg(bundle).args(&arguments[1..])).success();
            output.replace(bundle.to_str().unwrap(), "BUNDLE")
        };
        assert_eq!(run(&file), run(&bundle), "{arguments:?}");
    }
    let data = dir.write("data.csv", small_csv(20));
    let evaluate = |bundle: &Path| {
        finish(program("nimbert-train").arg("evaluate").arg(bundle).arg("--data").arg(&data).arg("--json")).success()
    };
    assert_eq!(evaluate(&file), evaluate(&bundle));
    let trace = |bundle: &Path| finish(program("nimbert-train").arg("trace").arg(bundle).arg("a film")).success();
    assert_eq!(trace(&file), trace(&bundle));
    finish(program("nimbert").arg("bench").arg(&file).arg("--data").arg(&data)).success();
}

#[test]
fn fit_export_and_pack_make_the_same_file() {
    let dir = Dir::default();
    let data = dir.write("data.csv", small_csv(40));
    let base = workspace("tests/data/tiny-bert");
    let run = |out: &str, more: &[&str]| finish(fit(&base, &data, &dir.path(out)).args(["--epochs", "1"]).args(more));
    for out in ["folder", "file.nimbert"] {
        assert_eq!(run(out, &[]).status, Some(0));
    }
    pack(&dir.path("folder"), &dir.path("packed.nimbert"), &[]).success();
    assert_eq!(fs::read(dir.path("packed.nimbert")).unwrap(), fs::read(dir.path("file.nimbert")).unwrap());
    let exported = dir.path("exported.nimbert");
    finish(program("nimbert-train").arg("export").arg(&base).arg("--out").arg(&exported)).success();
    Bundle::open(&exported).unwrap().verify().unwrap();
    // Nothing is replaced unasked, and never what is no bundle.
    run("file.nimbert", &[]).failure(2, &["file.nimbert", "--overwrite"]);
    assert_eq!(run("file.nimbert", &["--overwrite"]).status, Some(0));
    let other = dir.write("other.nimbert", "a letter");
    pack(&dir.path("folder"), &other, &["--overwrite"]).failure(2, &["never replaced"]);
    pack(&dir.path("folder"), &dir.path("reviews.zip"), &[]).failure(2, &[".nimbert"]);
    // One that is damaged may be replaced.
    let damaged = dir.path("damaged.nimbert");
    fs::write(&damaged, &fs::read(dir.path("packed.nimbert")).unwrap()[..5000]).unwrap();
    pack(&dir.path("folder"), &damaged, &[]).failure(2, &["damaged.nimbert", "--overwrite"]);
    pack(&dir.path("folder"), &damaged, &["--overwrite"]).success();
    Bundle::open(&damaged).unwrap().verify().unwrap();
    pack(&dir.path("nowhere"), &dir.path("x.nimbert"), &[]).failure(2, &["nowhere"]);
    assert_eq!(fs::read(&other).unwrap(), b"a letter");
    let hidden = dir.names().into_iter().find(|name| name.starts_with('.'));
    assert_eq!(hidden, None);
}

#[test]
fn what_has_come_meanwhile_is_not_replaced() {
    let dir = Dir::default();
    let bundle = tiny_bundle(&dir);
    let manifest = Bundle::open(&bundle).unwrap().manifest;
    for name in ["other", "other.nimbert"] {
        let target = dir.path(name);
        let writer = BundleWriter::create(&target, false).unwrap();
        for file in manifest.files.keys() {
            fs::copy(bundle.join(file), writer.staging().join(file)).unwrap();
        }
        let letter = if name == "other" { target.join("letter") } else { target.clone() };
        fs::create_dir_all(letter.parent().unwrap()).unwrap();
        fs::write(&letter, "dear").unwrap();
        let error = writer.finish(manifest.clone()).unwrap_err();
        assert!(matches!(error, Error::OutputExists { .. }), "{error}");
        assert_eq!(fs::read(&letter).unwrap(), b"dear");
    }
}

#[cfg(unix)]
#[test]
fn who_may_not_read_the_folder_may_not_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::default();
    let (bundle, file) = (tiny_bundle(&dir), dir.path("mine.nimbert"));
    for (mask, mode) in [("077", 0o400), ("022", 0o444)] {
        let mut pack = Command::new("sh");
        pack.args(["-c", &format!("umask {mask}; exec \"$@\""), "sh"]).arg(program("nimbert-train").get_program());
        pack.args(["pack", "--overwrite"]).arg(&bundle).arg("--out").arg(&file);
        finish(&mut pack).success();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, mode);
    }
}

#[test]
fn other_programs_read_it() {
    let dir = Dir::default();
    let (bundle, file) = (copy_folder(&workspace("tests/data/bundle-2"), dir.path("bundle")), dir.path("x.nimbert"));
    pack(&bundle, &file, &[]).success();
    // A ZIP whose members are stored, each at a multiple of 64 KiB, and sound.
    let script = "import sys, zipfile, os
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
for member in archive.infolist():
    assert member.compress_type == zipfile.ZIP_STORED, member
    with archive.open(member) as file:
        content = file.read()
    whole = open(sys.argv[1], 'rb').read()
    place = member.header_offset + 30 + int.from_bytes(whole[member.header_offset + 26:][:2], 'little')
    place += int.from_bytes(whole[member.header_offset + 28:][:2], 'little')
    assert place % 65536 == 0 and whole[place:place + len(content)] == content, member
    if os.path.exists(os.path.join(sys.argv[2], member.filename)):
        assert open(os.path.join(sys.argv[2], member.filename), 'rb').read() == content
print(' '.join(sorted(archive.namelist())))";
    let names = finish(Command::new("python3").args(["-c", script]).arg(&file).arg(&bundle)).success();
    assert!(names.contains("config.json model.onnx") && names.contains("nimbert.json"), "{names}");
    match Command::new("unzip").arg("-t").arg(&file).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => eprintln!("unzip is not here: not tried"),
    }
}

#[test]
fn signed_as_one_file() {
    let dir = Dir::default();
    let (bundle, file) = (tiny_bundle(&dir), dir.path("reviews.nimbert"));
    let train = |arguments: &[&str]| finish(program("nimbert-train").args(arguments).current_dir(dir.path(".")));
    train(&["keygen", "--no-password"]).success();
    pack(&bundle, &file, &[]).success();
    let verify =
        || finish(program("nimbert").arg("verify").arg(&file).arg("--public-key").arg(dir.path("nimbert.pub")));
    verify().failure(2, &["nimbert.json.minisig", "found no signature"]);
    train(&["sign", "reviews.nimbert"]).success();
    assert!(verify().success().contains("signed"));
    // The signature comes along, whichever was first.
    train(&["sign", "bundle"]).success();
    train(&["pack", "bundle", "--out", "signed.nimbert"]).success();
    let keys = [PublicKey::open(dir.path("nimbert.pub")).unwrap()];
    Bundle::open_signed(dir.path("signed.nimbert"), &keys).unwrap();
    train(&["pack", "signed.nimbert", "--out", "again.nimbert"]).success();
    assert_eq!(fs::read(dir.path("signed.nimbert")).unwrap(), fs::read(dir.path("again.nimbert")).unwrap());
}

/// By default, and with the compiled form of the unchanged file in the cache.
#[test]
fn three_hundred_flipped_bytes_are_named_errors() {
    let dir = Dir::default();
    let (bundle, file) = (tiny_bundle(&dir), dir.path("reviews.nimbert"));
    pack(&bundle, &file, &[]).success();
    let options = Options { cache: Some(dir.path("cache")), ..Options::default() };
    Classifier::open(&file, &options).unwrap();
    let whole = fs::read(&file).unwrap();
    let open = || -> nimbert::Result<()> {
        Classifier::open(&file, &options)?;
        Bundle::open(&file)?.verify()
    };
    open().unwrap();
    set_read_only(&file, false);
    let mut changed = whole.clone();
    for step in 0..300 {
        // All over the file, and as often in what is neither a member nor padding: the directory at its end.
        let place = if step % 4 == 0 { whole.len() - 1 - step } else { step * 7919 * 13 % whole.len() };
        let flip = [0x01, 0x80, 0xff][step % 3];
        changed[place] ^= flip;
        fs::write(&file, &changed).unwrap();
        let error = open().unwrap_err();
        assert!(matches!(error, Error::Format { .. } | Error::Checksum { .. }), "{place}: {error}");
        changed[place] ^= flip;
    }
    for length in (0..whole.len()).step_by(whole.len() / 50) {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(matches!(open().unwrap_err(), Error::Format { .. }), "{length}");
    }
    fs::write(&file, &whole).unwrap();
    open().unwrap();
}

/// By Python's writer, which aligns nothing.
#[test]
fn another_programs_file_is_refused_and_what_is_not_listed_is_not_packed() {
    let dir = Dir::default();
    let bundle = copy_folder(&workspace("tests/data/bundle-2"), dir.path("bundle"));
    let file = dir.path("x.nimbert");
    pack(&bundle, &file, &[]).success();
    let script = "import sys, zipfile
archive = zipfile.ZipFile(sys.argv[1], 'a')
archive.writestr('more.txt', 'unseen')
archive.close()";
    set_read_only(&file, false);
    finish(Command::new("python3").args(["-c", script]).arg(&file)).success();
    assert!(matches!(Bundle::open(&file).unwrap_err(), Error::Format { .. }));
    fs::remove_file(&file).unwrap();
    dir.write("bundle/more.txt", "seen");
    pack(&bundle, &file, &[]).success();
    let folder = dir.path("unpacked");
    fs::create_dir(&folder).unwrap();
    Bundle::open(&file).unwrap().unpack(&folder).unwrap();
    assert!(!folder.join("more.txt").exists() && folder.join("config.json").exists());
}
