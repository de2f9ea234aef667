//! Handles: numbers that look like pointers, but are looked up, never followed, and never used again. So one that was
//! closed, or is of another kind, is refused, and what it names stays until the last call that uses it returns.

use std::{
    any::Any,
    collections::BTreeMap,
    ffi::c_void,
    process, ptr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nimbert::ErrorKind;

use crate::failure::{Failure, INVALID_HANDLE, Result, failure};

/// What C has of a classifier, a call or results.
pub(crate) type Handle = *mut c_void;

/// The handles of one process. A fork may come while another thread holds the lock, which nobody releases in the child
/// then: so that has handles of its own.
struct Process {
    id: u32,
    /// Numbers below are handles of the process that it was forked from.
    first: usize,
    named: Mutex<BTreeMap<usize, Arc<dyn Any + Send + Sync>>>,
    child: OnceLock<Box<Process>>,
}

/// 0 is NULL.
static NEXT: AtomicUsize = AtomicUsize::new(1);

impl Process {
    const fn new(id: u32, first: usize) -> Self {
        Self { id, first, named: Mutex::new(BTreeMap::new()), child: OnceLock::new() }
    }

    fn current() -> &'static Self {
        static NONE: Process = Process::new(0, 1);
        let (id, mut process) = (process::id(), &NONE);
        while process.id != id {
            process = process.child.get_or_init(|| Box::new(Self::new(id, NEXT.load(Relaxed))));
        }
        process
    }
}

/// Locks what no panic leaves half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn insert<T: Any + Send + Sync>(value: Arc<T>) -> Handle {
    // Before the number is taken: it must not count as one from before a fork.
    let process = Process::current();
    let number = NEXT.fetch_add(1, Relaxed);
    lock(&process.named).insert(number, value);
    ptr::without_provenance_mut(number)
}

pub(crate) fn get<T: Any + Send + Sync>(handle: Handle) -> Result<Arc<T>> {
    let process = Process::current();
    if !handle.is_null() && handle.addr() < process.first {
        return Err(failure(ErrorKind::Forked as i32, "the handle was made before this process was forked"));
    }
    let named = lock(&process.named).get(&handle.addr()).cloned();
    named.and_then(|named| named.downcast().ok()).ok_or_else(unknown)
}

/// The same, and the handle is none any more. NULL is nothing to remove.
pub(crate) fn remove<T: Any + Send + Sync>(handle: Handle) -> Result<Option<Arc<T>>> {
    if handle.is_null() {
        return Ok(None);
    }
    let value = get(handle)?;
    // Of two threads that remove it at once, one does.
    lock(&Process::current().named).remove(&handle.addr()).ok_or_else(unknown)?;
    Ok(Some(value))
}

fn unknown() -> Failure {
    failure(INVALID_HANDLE, "expected a handle of the function's kind, found NULL, one that was closed, or another")
}
