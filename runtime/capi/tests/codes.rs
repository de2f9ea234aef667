//! The numbers of nimbert.h are those of the library, and will always be.

use nimbert::ErrorKind;

const HEADER: &str = include_str!("../include/nimbert.h");

#[test]
fn codes_are_the_kinds_of_errors() {
    let kinds = [
        (ErrorKind::Io, 1),
        (ErrorKind::Format, 2),
        (ErrorKind::Checksum, 3),
        (ErrorKind::Signature, 4),
        (ErrorKind::OutputExists, 5),
        (ErrorKind::Tokenizer, 6),
        (ErrorKind::TooLong, 7),
        (ErrorKind::Input, 8),
        (ErrorKind::LibraryNotFound, 9),
        (ErrorKind::Device, 10),
        (ErrorKind::Session, 11),
        (ErrorKind::QueueFull, 12),
        (ErrorKind::Cancelled, 13),
        (ErrorKind::DeadlinePassed, 14),
        (ErrorKind::MemoryLimit, 15),
        (ErrorKind::Setting, 16),
        (ErrorKind::Forked, 17),
    ];
    for (kind, number) in kinds {
        assert_eq!(kind as u32, number);
        let line = format!("    NIMBERT_{} = {number},", kind.name().to_uppercase());
        assert!(HEADER.lines().any(|found| found == line), "nimbert.h has no line {line}");
    }
    let codes = HEADER.lines().filter(|line| line.starts_with("    NIMBERT_") && line.contains(" = ")).count();
    assert_eq!(codes, kinds.len() + 5, "OK, and those from 100 on");
}

#[test]
fn the_version_is_the_crates() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(HEADER.contains(&format!("#define NIMBERT_VERSION \"{version}\"\n")));
}
