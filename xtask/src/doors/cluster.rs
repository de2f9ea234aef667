//! Engines that spread work over machines, with the wheel: two workers here, one of which is killed.

use anyhow::Result;

use super::{FOLDER, python};
use crate::{
    command,
    demo::{BUNDLE, expect_bundle},
    python::{self as environments, environment},
    run, setup, workspace,
};

/// The engines, and what they read and write tables with.
const ENGINES: [&str; 4] = ["ray[data]==2.60.0", "pyspark==4.3.0", "pandas==2.3.3", "pyarrow==26.0.1"];
/// So many are classified, by the demo's classifier.
const ROWS: usize = 20_000;

/// `cargo xtask cluster`
pub(crate) fn cluster() -> Result<()> {
    expect_bundle()?;
    setup::setup()?;
    crate::build()?;
    python::setup()?;
    python::install(python::Wheels::Native)?;
    let folder = format!("{FOLDER}/cluster");
    environment(&folder, &ENGINES)?;
    let program = |name: &str| environments::program(&folder, name);
    let pip = |arguments: &[&str]| {
        let mut pip = command(program("pip"), &["install", "--quiet", "--disable-pip-version-check"]);
        run(pip.args(arguments))
    };
    let packages = format!("{FOLDER}/packages");
    pip(&["--force-reinstall", "--no-deps", "--no-index", "--find-links", "target/wheels", "nimbert", "nimbert-cli"])?;
    pip(&["--find-links", &packages, "onnxruntime==1.31.1"])?;
    let file = format!("{FOLDER}/movies.nimbert");
    let pack = ["pack", BUNDLE, "--out", &file, "--overwrite"];
    run(&mut command(crate::release_program("nimbert-train"), &pack))?;
    let texts = python::sentences(ROWS)?;
    for engine in ["cluster_ray", "cluster_spark"] {
        println!("cluster: {engine}");
        let mut test = command(program("python"), &[&format!("{engine}.py")]);
        test.current_dir(workspace("bindings/python/tests")).env_remove("ORT_DYLIB_PATH");
        test.env("NIMBERT_PROGRAM", program("nimbert")).env("NIMBERT_TEST_FILE", workspace(&file));
        // Ray would write a key below the user's folder.
        run(test.env("NIMBERT_TEST_TEXTS", workspace(&texts)).env("RAY_AUTH_MODE", "disabled"))?;
    }
    Ok(())
}
