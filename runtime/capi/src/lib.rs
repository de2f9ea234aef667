//! The C library. Its manual is `include/nimbert.h`, which says what a function does and what its arguments must be.

#![allow(unsafe_code, reason = "C finds functions by their plain names")]

mod arguments;
mod call;
mod classifier;
mod failure;
mod handles;
mod load;
mod results;

use std::{ffi::c_char, path::Path};

use arguments::Text;

#[unsafe(no_mangle)]
extern "C" fn nimbert_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_last_error() -> *const c_char {
    failure::last_message()
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_set_library_path(path: Text) -> i32 {
    failure::answer(|| Ok(nimbert::load_library(Some(Path::new(path.read("path")?)))?))
}
