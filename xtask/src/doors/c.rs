//! C and C++: a tree as it is installed, and programs that are built with what lies in it alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{BUNDLE, FOLDER, build, cargo_of_doors, copy, empty, has, packed, python::tool};
use crate::{command, dist::Target, output, release_program, run, setup, workspace};

/// The installed tree.
const TREE: &str = "target/capi";
const TESTS: &str = "runtime/capi/tests";
const WARNINGS: [&str; 5] = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"];
const SANITIZERS: [&str; 3] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
/// The files of the test program.
const MAIN: [&str; 6] = ["main.c", "open.c", "classify.c", "calls.c", "threads.c", "process.c"];
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `cargo xtask capi`: builds and installs the library, and tests it, with valgrind and for two minutes too.
pub(crate) fn capi() -> Result<()> {
    setup::setup()?;
    crate::build()?;
    test()?;
    let folder = workspace(FOLDER).join("c");
    let main = compile(&folder, "main-valgrind", &MAIN, &[])?;
    let mut valgrind =
        command("valgrind", &["--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"]);
    valgrind.arg(format!("--suppressions={}", workspace(TESTS).join("valgrind.supp").display()));
    run(valgrind.arg("--quiet").arg(main).args(arguments()?))?;
    let soak = compile(&folder, "soak", &["soak.c"], &[])?;
    run(command(soak, &[]).arg(workspace(BUNDLE)).arg(library()).arg("120"))
}

pub(super) fn test() -> Result<()> {
    install()?;
    exports()?;
    run(&mut cargo_of_doors("test"))?;
    let folder = empty(&format!("{FOLDER}/c"))?;
    run(&mut command(compile(&folder, "header-c", &["header_c.c"], &[])?, &[]))?;
    let main = compile(&folder, "main", &MAIN, &SANITIZERS)?;
    run(command(main, &[]).args(arguments()?))?;
    leak(&folder)?;
    let soak = compile(&folder, "soak", &["soak.c"], &[])?;
    run(command(soak, &[]).arg(workspace(BUNDLE)).arg(library()))?;
    if !has("c++") {
        return Ok(());
    }
    run(&mut command(compile(&folder, "header-cpp", &["header_cpp.cpp"], &[])?, &[]))?;
    let cpp = compile(&folder, "cpp", &["cpp.cpp"], &SANITIZERS)?;
    run(command(cpp, &[]).arg(workspace(BUNDLE)).arg(workspace(&packed()?)).arg(library()))?;
    if has("make") { build_systems() } else { Ok(()) }
}

/// Puts what ships into [`TREE`].
pub(super) fn install() -> Result<()> {
    build()?;
    let built = release_program("nimbert");
    tree(&empty(TREE)?, built.parent().context("a folder")?, &Target::host()?)
}

/// The library for C, which lies compiled in `built`, into a tree.
pub(crate) fn tree(tree: &Path, built: &Path, target: &Target) -> Result<()> {
    let folder = |name: &str| {
        let path = tree.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string()).map(|()| path)
    };
    let copy_built = |name: &str, to: PathBuf| fs::copy(built.join(name), to).map(drop).context(name.to_owned());
    let (include, lib) = (folder("include")?, folder("lib")?);
    for header in ["nimbert.h", "nimbert.hpp"] {
        copy(&format!("runtime/capi/include/{header}"), include.join(header))?;
    }
    copy_built("libnimbert_capi.a", lib.join("libnimbert.a"))?;
    let private = if target.is_windows() {
        copy_built("nimbert_capi.dll", folder("bin")?.join("nimbert.dll"))?;
        import_library(&lib)?;
        "-lkernel32 -lntdll -luserenv -lws2_32 -ldbghelp"
    } else {
        copy_built("libnimbert_capi.so", lib.join("libnimbert.so.0"))?;
        link("libnimbert.so.0", &lib.join("libnimbert.so"))?;
        "-lgcc_s -lutil -lrt -lpthread -lm -ldl"
    };
    let fill = |from: &str, to: PathBuf| {
        let text = fs::read_to_string(workspace("runtime/capi").join(from)).with_context(|| from.to_owned())?;
        let text = text.replace("@VERSION@", VERSION).replace("@PRIVATE@", private);
        let text = text.replace("@POINTER_BYTES@", if target.arch == "arm" { "4" } else { "8" });
        fs::write(&to, text).with_context(|| to.display().to_string())
    };
    fill("nimbert.pc.in", folder("lib/pkgconfig")?.join("nimbert.pc"))?;
    let cmake = folder("lib/cmake/nimbert")?;
    for name in ["nimbert-config", "nimbert-config-version"] {
        fill(&format!("cmake/{name}.cmake.in"), cmake.join(format!("{name}.cmake")))?;
    }
    Ok(())
}

/// What programs of Windows are linked with, for the library by the name that it ships under.
fn import_library(lib: &Path) -> Result<()> {
    let definitions = lib.join("nimbert.def");
    let names: Vec<String> = declared()?.into_iter().collect();
    fs::write(&definitions, format!("LIBRARY nimbert.dll\nEXPORTS\n{}\n", names.join("\n")))?;
    let mut dlltool = command("x86_64-w64-mingw32-dlltool", &["--deterministic-libraries", "--temp-prefix", "nimbert"]);
    // Symbols are named after the path, so it must not be that of a checkout.
    dlltool.arg("--input-def").arg(definitions).args(["--output-lib", "libnimbert.dll.a"]);
    run(dlltool.current_dir(lib))
}

#[cfg(unix)]
fn link(to: &str, path: &Path) -> Result<()> {
    std::os::unix::fs::symlink(to, path).with_context(|| path.display().to_string())
}

#[cfg(not(unix))]
fn link(to: &str, path: &Path) -> Result<()> {
    fs::copy(path.with_file_name(to), path).map(drop).with_context(|| path.display().to_string())
}

/// The library exports what the header declares, and nothing else.
fn exports() -> Result<()> {
    let library = workspace(TREE).join("lib/libnimbert.so");
    let symbols = output(command("nm", &["--dynamic", "--defined-only", "--format=posix"]).arg(&library))?;
    let exported: BTreeSet<&str> = symbols.lines().filter_map(|line| line.split(' ').next()).collect();
    let declared = declared()?;
    if declared.iter().map(String::as_str).ne(exported.iter().copied()) {
        bail!("nimbert.h declares {declared:?}, but the library exports {exported:?}");
    }
    let dynamic = output(command("readelf", &["--dynamic"]).arg(&library))?;
    if !dynamic.contains("[libnimbert.so.0]") {
        bail!("{}: expected the soname libnimbert.so.0", library.display());
    }
    println!("c: {} functions exported, as declared", declared.len());
    Ok(())
}

/// The functions of the header.
fn declared() -> Result<BTreeSet<String>> {
    let header = fs::read_to_string(workspace("runtime/capi/include/nimbert.h"))?;
    let declaration = |line: &str| {
        let line = line.strip_prefix("NIMBERT_API ")?;
        let name = line.split('(').next()?.rsplit([' ', '*']).next()?;
        Some(name.to_owned())
    };
    Ok(header.lines().filter_map(declaration).collect())
}

/// Compiles test files against the installed tree.
fn compile(folder: &Path, name: &str, files: &[&str], more: &[&str]) -> Result<PathBuf> {
    let (tree, program) = (workspace(TREE), folder.join(name));
    let is_cpp = files[0].ends_with(".cpp");
    let (compiler, standard) = if is_cpp { ("c++", "-std=c++17") } else { ("cc", "-std=c11") };
    let mut compile = command(compiler, &[standard, "-O1"]);
    compile.args(WARNINGS).args(more).arg("-I").arg(tree.join("include"));
    compile.args(files.iter().map(|file| workspace(TESTS).join(file))).arg("-o").arg(&program);
    compile.arg("-L").arg(tree.join("lib")).arg("-lnimbert").arg("-lpthread");
    compile.arg(format!("-Wl,-rpath,{}", tree.join("lib").display()));
    run(&mut compile)?;
    Ok(program)
}

fn library() -> PathBuf {
    workspace(&setup::onnx_runtime_library())
}

/// A bundle, the same as one file, and ONNX Runtime's library.
fn arguments() -> Result<[PathBuf; 3]> {
    Ok([workspace(BUNDLE), workspace(&packed()?), library()])
}

/// That the sanitizer is on: what leaks on purpose is found.
fn leak(folder: &Path) -> Result<()> {
    let leak = compile(folder, "leak", &["leak.c"], &SANITIZERS)?;
    let found = command(leak, &[]).arg(workspace(BUNDLE)).arg(library()).output()?;
    let said = String::from_utf8_lossy(&found.stderr);
    if found.status.success() || !said.contains("LeakSanitizer") {
        bail!("leak.c: expected LeakSanitizer to find its leak, found {}: {said}", found.status);
    }
    println!("c: a planted leak is found");
    Ok(())
}

/// The examples by CMake, in an empty folder. (By pkg-config they are built where their answers are compared.)
fn build_systems() -> Result<()> {
    let tree = workspace(TREE);
    let folder = empty(&format!("{FOLDER}/cmake"))?;
    for name in ["classify.c", "classify.cpp"] {
        copy(&format!("runtime/examples/{name}"), folder.join(name))?;
    }
    fs::write(
        folder.join("CMakeLists.txt"),
        "cmake_minimum_required(VERSION 3.16)\nproject(example C CXX)\nfind_package(nimbert 0.1 REQUIRED)\n\
         add_executable(classify-c classify.c)\ntarget_link_libraries(classify-c nimbert::nimbert)\n\
         add_executable(classify-cpp classify.cpp)\ntarget_link_libraries(classify-cpp nimbert::nimbert)\n\
         add_executable(classify-static classify.c)\ntarget_link_libraries(classify-static nimbert::static)\n",
    )?;
    let mut configure = command(tool("cmake"), &["-B", "build", "-S", "."]);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", tree.display())).stdout(std::process::Stdio::null());
    run(configure.current_dir(&folder))?;
    run(command(tool("cmake"), &["--build", "build"]).current_dir(&folder).stdout(std::process::Stdio::null()))?;
    let file = workspace(&packed()?);
    let answers = ["classify-c", "classify-cpp", "classify-static"]
        .map(|name| output(command(folder.join("build").join(name), &[]).arg(&file).current_dir(&folder)));
    let [c, cpp, linked] = answers;
    let (c, cpp, linked) = (c?, cpp?, linked?);
    if c != cpp || c != linked {
        bail!("examples built by CMake differ:\n{c}\n{cpp}\n{linked}");
    }
    println!("c: the examples are built by CMake, one with the static library");
    Ok(())
}

/// An example, built in an empty folder by pkg-config.
pub(super) fn example(name: &str) -> Result<Command> {
    let folder = empty(&format!("{FOLDER}/{name}"))?;
    copy(&format!("runtime/examples/{name}"), folder.join(name))?;
    let lib = workspace(TREE).join("lib");
    let mut flags = command("pkg-config", &["--cflags", "--libs", "nimbert"]);
    let flags = output(flags.env("PKG_CONFIG_PATH", lib.join("pkgconfig")))?;
    let (compiler, standard) = if name.ends_with(".cpp") { ("c++", "-std=c++17") } else { ("cc", "-std=c11") };
    let mut compile = command(compiler, &[standard]);
    compile.args(WARNINGS).arg(name).args(flags.split_whitespace()).args(["-lpthread", "-o", "classify"]);
    run(compile.arg(format!("-Wl,-rpath,{}", lib.display())).current_dir(&folder))?;
    Ok(command(folder.join("classify"), &[]))
}
