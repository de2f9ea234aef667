//! Links a module that Node.js loads.

fn main() {
    napi_build::setup();
}
