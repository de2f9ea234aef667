//! Wheels and npm packages for a system.

use anyhow::Result;

use super::{
    FOLDER,
    compile::Compiler,
    target::{GLIBC, Target},
    tools::tool,
    tree,
};
use crate::{command, doors::node, run, workspace};

/// The wheels of the module and of the program, and the npm package of the module, where they could run.
pub(super) fn build(target: &Target) -> Result<()> {
    if target.node.is_none() {
        return Ok(());
    }
    let compiler = Compiler::new(*target)?;
    for project in ["bindings/python", "bindings/python-cli"] {
        let mut maturin = command(tool("maturin"), &["build", "--profile", "dist", "--quiet"]);
        maturin.args(["--target", target.triple, "--out"]).arg(workspace(FOLDER));
        if target.os == "linux" {
            maturin.args(["--zig", "--compatibility", &format!("manylinux_{}_{}", GLIBC.0, GLIBC.1)]);
        }
        compiler.prepare(&mut maturin)?;
        run(maturin.args(compiler.arguments()).current_dir(workspace(project)))?;
    }
    // It was compiled with the tree.
    if target.os == "linux" {
        tree::check_glibc(&compiler.folder().join("libnimbert_node.so"))?;
    }
    node::pack_platform(target, &compiler.folder(), &workspace(FOLDER))
}
