//! .deb and .rpm, by nfpm, from the tree of the archive.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    FOLDER, archive,
    target::{Packages, Target},
    tools::tool,
};
use crate::{command, run, workspace};

/// A package of one kind, for one system.
struct Kind {
    name: &'static str,
    architecture: &'static str,
    /// Where its systems look for libraries.
    libraries: &'static str,
    /// What ONNX Runtime's library asks for, and what makes a group.
    depends: [String; 3],
}

impl Kind {
    fn all(packages: &Packages) -> [Self; 2] {
        let Packages { deb, rpm, rpm_libraries, glibc, libstdcxx } = packages;
        let deb_depends = [format!("libc6 (>= {glibc})"), format!("libstdc++6 (>= {libstdcxx})"), "passwd".to_owned()];
        let rpm_depends = [format!("glibc >= {glibc}"), format!("libstdc++ >= {libstdcxx}"), "shadow-utils".to_owned()];
        [
            Self { name: "deb", architecture: deb, libraries: "/usr/lib", depends: deb_depends },
            Self { name: "rpm", architecture: rpm, libraries: rpm_libraries, depends: rpm_depends },
        ]
    }
}

/// Where parts of the tree go, but for the other libraries; the first that fits counts.
const PLACES: [(&str, &str); 6] = [
    ("lib/nimbert/", "/usr/lib/nimbert/"),
    ("lib/systemd/", "/usr/lib/systemd/"),
    ("share/", "/usr/share/"),
    ("include/", "/usr/include/"),
    ("bin/", "/usr/bin/"),
    ("README.md", "/usr/share/doc/nimbert/README.md"),
];

/// Makes the packages of a target, if its systems have any, in a folder: the .deb first.
pub(super) fn build(target: &Target, tree: &Path, version: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let kinds = target.packages.iter().flat_map(Kind::all);
    kinds.map(|kind| make(&kind, tree, version, folder)).collect()
}

fn make(kind: &Kind, tree: &Path, version: &str, folder: &Path) -> Result<PathBuf> {
    let architecture = kind.architecture;
    let mut contents = Vec::new();
    for file in archive::files(tree)? {
        let name = file.strip_prefix(tree)?.to_string_lossy().into_owned();
        let place = PLACES.iter().find_map(|(start, to)| Some(format!("{to}{}", name.strip_prefix(start)?)));
        let place = place.or_else(|| Some(format!("{}{}", kind.libraries, name.strip_prefix("lib")?)));
        let place = place.with_context(|| format!("{name}: no place in a package"))?;
        contents.push(match fs::read_link(&file) {
            Ok(to) => json!({"src": to, "dst": place, "type": "symlink"}),
            Err(_) => {
                let mode = if archive::is_program(&file) { 0o755 } else { 0o644 };
                json!({"src": file, "dst": place, "file_info": {"mode": mode}})
            }
        });
    }
    for (from, to) in
        [("nimbert.sysusers", "/usr/lib/sysusers.d/nimbert.conf"), ("copyright", "/usr/share/doc/nimbert/copyright")]
    {
        contents.push(json!({"src": workspace("packaging").join(from), "dst": to, "file_info": {"mode": 0o644}}));
    }
    contents.push(json!({"dst": "/etc/nimbert", "type": "dir", "file_info": {"mode": 0o755}}));
    contents.push(json!({"dst": "/var/lib/nimbert", "type": "dir", "file_info": {"mode": 0o755}}));
    let config = json!({
        "name": "nimbert",
        "version": version,
        "release": "1",
        "arch": architecture,
        "section": "science",
        "maintainer": "The nimbert authors <nimbert@invalid>",
        "description": "Classifies text with small BERT models\nThe program nimbert and the library for C and C++.",
        "license": "MIT OR Apache-2.0",
        "depends": kind.depends,
        "scripts": {
            "postinstall": workspace("packaging/postinst"),
            "preremove": workspace("packaging/prerm"),
            "postremove": workspace("packaging/postrm"),
        },
        "deb": {"triggers": {"activate_noawait": ["ldconfig"]}},
        "mtime": archive::TIME_TEXT,
        "contents": Value::Array(contents),
    });
    let file = workspace(FOLDER).join(format!("build/nimbert-{}.json", kind.name));
    fs::write(&file, serde_json::to_string_pretty(&config)?)?;
    let package = match kind.name {
        "deb" => format!("nimbert_{version}-1_{architecture}.deb"),
        _ => format!("nimbert-{version}-1.{architecture}.rpm"),
    };
    let mut nfpm = command(tool("nfpm"), &["package", "--packager", kind.name, "--config"]);
    let package = folder.join(package);
    nfpm.arg(&file).arg("--target").arg(&package).env("SOURCE_DATE_EPOCH", archive::TIME.to_string());
    run(&mut nfpm)?;
    Ok(package)
}
