//! The name by which programs that were linked with the library ask for it, and that it stays loaded.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION_MAJOR");
    match std::env::var("CARGO_CFG_TARGET_OS").as_deref() {
        Ok("linux") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnimbert.so.{version}");
            // Where packages put ONNX Runtime's library: in a folder that only nimbert looks into, or beside this one.
            println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN/nimbert:$ORIGIN/../lib/nimbert:$ORIGIN");
            // Its threads, and ONNX Runtime's, would return into code that is gone.
            println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        }
        Ok("macos") => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libnimbert.{version}.dylib");
        }
        _ => {}
    }
}
