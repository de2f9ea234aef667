//! What happens when the library is loaded, and when its first function is called.

#![allow(unsafe_code, reason = "nothing else runs before the program, and may change its environment")]

use std::{env, fs, hint::black_box, panic::set_hook, sync::Once};

use nimbert::TELEMETRY_VARIABLE;

/// What the system calls when it loads the library.
#[used]
#[cfg_attr(not(any(windows, target_vendor = "apple")), unsafe(link_section = ".init_array"))]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(windows, unsafe(link_section = ".CRT$XCU"))]
static AT_LOAD: extern "C" fn() = at_load;

/// ONNX Runtime calls home unless this was said before it is loaded.
extern "C" fn at_load() {
    let has_one_thread = || fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if env::var_os(TELEMETRY_VARIABLE).is_none() && (!cfg!(target_os = "linux") || has_one_thread()) {
        // SAFETY: no other thread reads the environment: there is none, or on Windows the system guards it. On macOS
        // it is loaded with the program; nimbert.h says what one does that loads it later.
        unsafe { env::set_var(TELEMETRY_VARIABLE, "1") };
    }
}

/// What the first call brings about.
pub(crate) fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Of a static library a linker takes only what is mentioned.
        black_box(&AT_LOAD);
        // A panic becomes a code and is not written anywhere. The library has a copy of std, and so a hook, of its own.
        set_hook(Box::new(|_| {}));
    });
}
