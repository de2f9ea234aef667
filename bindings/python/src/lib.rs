//! `nimbert._nimbert`: what the Python of the package (`python/nimbert`) calls, and nobody else.

mod classifier;
mod column;
mod error;
mod rows;

#[pyo3::pymodule]
mod _nimbert {
    #[pymodule_export]
    use crate::{
        classifier::Classifier,
        rows::{Explanation, Rows},
    };

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");

    /// Standard error is the program's. The hook is this module's alone, as its copy of Rust's standard library is.
    #[pymodule_init]
    fn silence_panics() {
        std::panic::set_hook(Box::new(|_| {}));
    }
}
