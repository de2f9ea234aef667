//! A bundle in one file: as it is, and behind as much space as two numbers in front say, since members lie at multiples of 64 KiB.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use nimbert::Bundle;

fuzz_target!(|content: &[u8]| {
    let path = std::env::temp_dir().join(format!("nimbert-fuzz-{}.nimbert", std::process::id()));
    let open = |content: &[u8]| {
        fs::write(&path, content).expect("a folder for temporary files");
        if let Ok(bundle) = Bundle::open(&path) {
            let _ = bundle.verify();
        }
    };
    open(content);
    if let [pages, rest, tail @ ..] = content {
        let space = usize::from(*pages % 8) * 65_536 + usize::from(*rest);
        open(&[&vec![0; space], tail].concat());
    }
    let _ = fs::remove_file(&path);
});
