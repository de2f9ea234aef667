//! Opens changed bundles, one after the other, and says on standard output what came of each. Whoever reads it knows
//! from the last line at which one the process ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use nimbert::{Classifier, Options, Result, memory};
use tempfile::TempDir;

use crate::cases::{BUNDLE, CACHE, Case, Cases, Kind};

/// A classifier of some hundred kilobytes that takes more memory than this, in bytes, was made to.
const MOST_BYTES: u64 = 2 << 30;
/// How often memory is looked at.
const WATCH: Duration = Duration::from_millis(10);
/// A file that is younger is not remembered as one that was compared.
const REMEMBERED_AFTER: Duration = Duration::from_millis(2500);
/// Of a message, so many characters are told.
const MOST_CHARACTERS: usize = 300;
/// A folder for a cache that is empty whenever a bundle is opened.
const COLD: &str = "cold";

/// Which cases are tried.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    /// That of one index.
    One(usize),
    /// About `sample` of all, from an index on.
    From { from: usize, sample: usize },
}

/// What a thread has panicked with; none if that became an error.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Tries cases: before each `begin INDEX WHAT`, after it `end OUTCOME`, at the end `done`.
///
/// # Errors
/// Those of opening the unchanged bundle.
pub(crate) fn run(bundle: &Path, kind: Kind, seed: u64, which: Which) -> Result<()> {
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic.to_string());
    }));
    // Calls the hook before it for the others.
    nimbert::guard::silence_guarded_panics();
    watch_memory();
    let place = Place::new(bundle, kind)?;
    let files = place.files.iter().map(|(path, file)| (path.clone(), file.content.clone())).collect();
    let cases = Cases::new(kind, seed, files);
    let indices = match which {
        Which::One(index) => (index..index + 1).step_by(1),
        Which::From { sample, .. } => (0..cases.count()).step_by(cases.count().div_ceil(sample).max(1)),
    };
    let first = if let Which::From { from, .. } = which { from } else { 0 };
    for index in indices.skip_while(|index| *index < first) {
        let case = cases.case(index);
        println!("begin {index} {}", one_line(&case.what));
        place.put(&case.changed).expect("a changed file in a temporary folder");
        // The peak starts anew, where the system can do that; else it is that of all cases.
        let _ = fs::write("/proc/self/clear_refs", "5");
        let outcome = place.attempt(&case);
        if memory::peak_bytes().is_some_and(|bytes| bytes > MOST_BYTES) {
            // What was taken may not be given back, and the next case is not to blame.
            println!("memory");
            return Ok(());
        }
        println!("end {}", one_line(&outcome));
    }
    println!("done");
    Ok(())
}

/// Ends the process before it takes the whole machine's memory.
fn watch_memory() {
    std::thread::spawn(|| {
        while memory::resident_bytes().is_none_or(|bytes| bytes <= MOST_BYTES) {
            std::thread::sleep(WATCH);
        }
        println!("memory");
        std::process::abort();
    });
}

/// A text for a protocol of lines.
fn one_line(text: &str) -> String {
    text.chars().take(MOST_CHARACTERS).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A folder with a copy of the bundle, and its caches.
struct Place {
    root: TempDir,
    /// What may be changed, by path in the folder.
    files: BTreeMap<PathBuf, File>,
    /// The right answers: of the graph, and of its compiled form, should they differ in a bit.
    expected: BTreeSet<String>,
}

/// An unchanged file.
struct File {
    content: Vec<u8>,
    modified: SystemTime,
}

impl Place {
    fn new(bundle: &Path, kind: Kind) -> Result<Self> {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mut place = Self { root, files: BTreeMap::new(), expected: BTreeSet::new() };
        let copy = || -> io::Result<()> {
            fs::create_dir(place.root.path().join(BUNDLE))?;
            for path in files_in(bundle)? {
                fs::copy(&path, place.root.path().join(BUNDLE).join(path.file_name().unwrap_or_default()))?;
            }
            Ok(())
        };
        copy().map_err(|reason| nimbert::Error::Io { path: bundle.to_owned(), reason })?;
        let cache = place.root.path().join(CACHE);
        place.expected.insert(place.answers(None)?);
        place.expected.insert(place.answers(Some(&cache))?);
        if !kind.is_sealed() {
            // From now on it is remembered that the files were compared: a later change must be noticed all the same.
            std::thread::sleep(REMEMBERED_AFTER);
            place.expected.insert(place.answers(Some(&cache))?);
        }
        place.read(&place.root.path().join(BUNDLE)).expect("the copy of the bundle");
        if kind == Kind::Compiled {
            let mut entries = fs::read_dir(&cache).expect("the cache").map(|entry| entry.expect("an entry").path());
            let entry = entries.find(|entry| entry.join("graph.onnx").exists()).expect("the compiled form");
            place.read(&entry).expect("the compiled form");
        }
        Ok(place)
    }

    /// Remembers the files of a folder as they are.
    fn read(&mut self, folder: &Path) -> io::Result<()> {
        for path in files_in(folder)? {
            let file = File { content: fs::read(&path)?, modified: fs::metadata(&path)?.modified()? };
            let path = path.strip_prefix(self.root.path()).expect("a folder of ours").to_owned();
            self.files.insert(path, file);
        }
        Ok(())
    }

    /// Makes all files what they were, but for those that are changed.
    fn put(&self, changed: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
        for (name, file) in &self.files {
            let path = self.root.path().join(name);
            let content = changed.get(name).unwrap_or(&file.content);
            if fs::read(&path).is_ok_and(|found| found == *content) {
                continue;
            }
            // A compiled form that was found broken is gone as a whole.
            fs::create_dir_all(path.parent().unwrap_or(self.root.path()))?;
            // In place, so that the file's number stays; the files of a compiled form are read-only.
            make_own(&path).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })?;
            fs::write(&path, content)?;
            make_own(&path)?;
            if cfg!(unix) {
                // Whoever changes a file can do that. Elsewhere nothing would tell it from what it was.
                fs::File::options().write(true).open(&path)?.set_modified(file.modified)?;
            }
        }
        Ok(())
    }

    /// Opens the bundle as it is now, and tells what came of it.
    fn attempt(&self, case: &Case) -> String {
        let cache = self.root.path().join(if case.is_cold { COLD } else { CACHE });
        if case.is_cold {
            // It is not there at the first time.
            let _ = fs::remove_dir_all(&cache);
        }
        let result = catch_unwind(AssertUnwindSafe(|| self.answers(Some(&cache))));
        let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (panic, result) {
            // In whichever thread.
            (Some(message), _) => format!("panic {message}"),
            (None, Err(_)) => "panic".to_owned(),
            (None, Ok(Ok(answers))) if self.expected.contains(&answers) => "same".to_owned(),
            (None, Ok(Ok(answers))) => format!("other {answers}"),
            (None, Ok(Err(error))) => {
                let debug = format!("{error:?}");
                let variant = debug.split(|character: char| !character.is_alphanumeric()).next().unwrap_or_default();
                format!("error {variant}: {error}")
            }
        }
    }

    /// The answers to three texts. Each is asked for alone, so that the same session gives it whatever else happens.
    fn answers(&self, cache: Option<&Path>) -> Result<String> {
        let options = Options { cache: cache.map(Path::to_owned), ..Options::default() };
        let classifier = Classifier::open(self.root.path().join(BUNDLE), &options)?;
        let long = "it is what it is , a thin plot and worse acting . ".repeat(20);
        let mut answers = String::new();
        for text in ["one of the year's best films", "Café Zoë – terrible , 电影 !", long.as_str()] {
            // All of it: numbers are written so that no bit is lost.
            answers += &format!("{:?}\n", classifier.classify(text)?);
        }
        Ok(answers)
    }
}

/// The files that lie in a folder.
fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Lets the user write a file, and nobody else: what others may write is not used from a cache.
fn make_own(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        Ok(())
    }
}
