//! `cargo xtask power-cut`: the power goes while a file is classified, again and again. Linux, as root: a file system
//! of its own in an image, which is stopped without its journal being written (what xfstests does), and mounted again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    demo::{BUNDLE, expect_bundle},
    doors::sentences,
    release_program, run, workspace,
};

const FOLDER: &str = ".setup/power-cut";
const ROWS: usize = 6000;
/// EXT4_IOC_SHUTDOWN, with EXT4_GOING_FLAGS_NOLOGFLUSH (fs/ext4/ext4.h).
const CUT: &str = "import fcntl, os, struct, sys; \
                   fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// The disk in the image, mounted; ends unmounted.
struct Disk {
    image: PathBuf,
    folder: PathBuf,
}

impl Disk {
    fn new() -> Result<Self> {
        let folder = workspace(FOLDER).join("disk");
        fs::create_dir_all(&folder)?;
        let image = workspace(FOLDER).join("disk.img");
        fs::File::create(&image)?.set_len(512 << 20)?;
        run(command("mkfs.ext4", &["-q", "-F"]).arg(&image))?;
        let disk = Self { image, folder };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(command("mount", &["-o", "loop"]).arg(&self.image).arg(&self.folder))
    }

    /// What no journal has is gone.
    fn cut(&self) -> Result<()> {
        run(command("python3", &["-c", CUT]).arg(&self.folder))
    }

    fn remount(&self) -> Result<()> {
        run(command("umount", &[]).arg(&self.folder))?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = command("umount", &["-l"]).arg(&self.folder).status();
    }
}

/// Cuts the power so often, each time somewhere else.
pub(crate) fn power_cut(cuts: u32) -> Result<()> {
    expect_bundle()?;
    crate::build()?;
    let texts = sentences(ROWS)?;
    let disk = Disk::new()?;
    run(command("cp", &["-r", BUNDLE]).arg(disk.folder.join("bundle")))?;
    run(&mut command("sync", &[]))?;
    let expected_file = workspace(FOLDER).join("expected.jsonl");
    let began = Instant::now();
    run(&mut classify(&disk.folder, &texts, &expected_file))?;
    let whole = began.elapsed();
    let expected = fs::read(&expected_file)?;
    let out = disk.folder.join("labels.jsonl");
    let mut random = fastrand::Rng::with_seed(0);
    let (mut whole_ones, mut resumed, mut from_nothing) = (0, 0, 0);
    for cut in 1..=cuts {
        for old in ["labels.jsonl", "cache"].map(|name| disk.folder.join(name)) {
            // Every third finds a cache that was kept before.
            if old.is_file() || cut % 3 != 0 {
                let _ = fs::remove_file(&old);
                let _ = fs::remove_dir_all(&old);
            }
        }
        // Or the cut would bring them back.
        run(&mut command("sync", &[]))?;
        let mut child = classify(&disk.folder, &texts, &out).stderr(std::process::Stdio::null()).spawn()?;
        std::thread::sleep(Duration::from_secs_f64(random.f64() * whole.as_secs_f64()));
        disk.cut()?;
        let _ = child.kill();
        child.wait()?;
        disk.remount()?;
        if out.exists() && fs::read(&out)? != expected {
            bail!("cut {cut}: the output is there, but not whole");
        }
        let has_partial = fs::read_dir(&disk.folder)?.flatten().any(|entry| is_partial(&entry.path()));
        match (out.exists(), has_partial) {
            (true, _) => whole_ones += 1,
            (false, true) => resumed += 1,
            (false, false) => from_nothing += 1,
        }
        run(classify(&disk.folder, &texts, &out).arg("--resume")).with_context(|| format!("cut {cut}"))?;
        if fs::read(&out)? != expected {
            bail!("cut {cut}: what --resume wrote differs from a run that was not cut");
        }
        let mut verify = command(release_program("nimbert"), &["verify"]);
        run(verify.arg(disk.folder.join("bundle")).stdout(std::process::Stdio::null()))?;
    }
    println!(
        "power-cut: {cuts} cuts: {whole_ones} found the whole output, {resumed} a part, {from_nothing} nothing; then all \
         outputs are equal"
    );
    Ok(())
}

fn is_partial(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.contains("labels.jsonl") && name != "labels.jsonl"
}

fn classify(disk: &Path, texts: &str, out: &Path) -> Command {
    let mut classify = command(release_program("nimbert"), &["classify"]);
    classify.arg(disk.join("bundle")).args(["--input", texts, "--output"]).arg(out);
    classify.env("NIMBERT_CACHE", disk.join("cache"));
    classify
}
