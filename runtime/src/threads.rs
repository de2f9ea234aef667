//! Work that several threads share where the system has them.

use std::thread::{Builder, ScopedJoinHandle, scope};

/// What both give, by two threads at once; by this one alone where no other can be had.
pub(crate) fn both<A: Send, B>(a: impl Fn() -> A + Sync, b: impl FnOnce() -> B) -> (A, B) {
    scope(|scope| {
        let begun = Builder::new().spawn_scoped(scope, &a);
        let b = b();
        (joined(begun, &a), b)
    })
}

/// What `of` gives for each of the parts, by a thread each; what no thread can be had for, this one does.
pub(crate) fn all<P: Copy + Send, T: Send>(parts: impl Iterator<Item = P>, of: impl Fn(P) -> T + Sync) -> Vec<T> {
    let of = &of;
    scope(|scope| {
        let begun: Vec<_> = parts.map(|part| (part, Builder::new().spawn_scoped(scope, move || of(part)))).collect();
        begun.into_iter().map(|(part, begun)| joined(begun, || of(part))).collect()
    })
}

/// What a thread that was begun gives; of one that could not be had, what `otherwise` gives here. Its panic is ours.
fn joined<T>(begun: std::io::Result<ScopedJoinHandle<'_, T>>, otherwise: impl FnOnce() -> T) -> T {
    match begun {
        Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        Err(_) => otherwise(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_shared_and_what_no_thread_can_be_had_for_is_done_by_this_one() {
        assert_eq!(both(|| 1, || 2), (1, 2));
        assert_eq!(all([1, 2, 3].into_iter(), |part| 10 * part), [10, 20, 30]);
        assert_eq!(joined(Err(std::io::ErrorKind::WouldBlock.into()), || 3), 3);
    }
}
