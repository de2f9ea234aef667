//! `tokenizer.json`, and what it makes of texts.
#![no_main]

use std::{path::Path, sync::Once};

use libfuzzer_sys::fuzz_target;
use nimbert::{Tokenizer, Truncation, TruncationSide, guard};

fuzz_target!(|content: &[u8]| {
    // A panic that becomes an error is none.
    static HOOK: Once = Once::new();
    HOOK.call_once(guard::silence_guarded_panics);
    let Ok(tokenizer) = Tokenizer::parse(Path::new("tokenizer.json"), content, 16) else { return };
    let long = "one two three ".repeat(300);
    for text in ["", "a great film", "  x [MASK]\u{301}  \u{4e00}\u{4e01} \u{fffd}\n\u{1f600}", &long] {
        for truncation in [Truncation::OfBundle, Truncation::At(TruncationSide::Left), Truncation::Refuse] {
            let _ = tokenizer.windows_with(text, truncation);
        }
        let _ = tokenizer.encode((text, "a pair"));
    }
});
