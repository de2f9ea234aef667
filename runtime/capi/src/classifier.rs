//! `nimbert_classifier`: a bundle that is open.

#![allow(unsafe_code, reason = "C finds functions by their plain names")]

use std::{
    ffi::{c_char, c_void},
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Instant,
};

use nimbert::{Background, CallOptions, Classifier, OwnedInput, TextInput};

use crate::{
    arguments::{Given, GivenCallOptions, GivenExplainOptions, GivenInputs, GivenOptions, Text},
    call::{Call, Callback, is_callback},
    failure::{INVALID_HANDLE, Place, Result, answer, answer_handle, answer_pointer, argument, caught, failure},
    handles::{self, Handle},
    results::{Names, Results},
};

/// What a classifier's handle names.
struct Opened {
    classifier: Arc<Classifier>,
    /// By task.
    names: Arc<Vec<Names>>,
    /// None once it is closed.
    background: RwLock<Option<Background>>,
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_open(path: Text, options: GivenOptions, classifier: Place) -> i32 {
    answer_handle(classifier, || Ok(register(Classifier::open(path.read("path")?, &options.read()?)?)))
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_open_memory(
    data: Given<'static, u8>,
    size: usize,
    options: GivenOptions,
    classifier: Place,
) -> i32 {
    answer_handle(classifier, || Ok(register(Classifier::from_bytes(data.array("data", size)?, &options.read()?)?)))
}

fn register(classifier: Classifier) -> Handle {
    let classifier = Arc::new(classifier);
    let names = Names::of(classifier.tasks());
    let background = RwLock::new(Some(Background::new(Arc::clone(&classifier))));
    handles::insert(Arc::new(Opened { classifier, names, background }))
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_close(classifier: Handle) -> i32 {
    answer(|| {
        let Some(opened) = handles::remove::<Opened>(classifier)? else { return Ok(()) };
        // Waits for those that submit at this moment, then for callbacks.
        let close =
            |opened: Arc<Opened>| drop(opened.background.write().unwrap_or_else(PoisonError::into_inner).take());
        if !is_callback() {
            close(opened);
            return Ok(());
        }
        // Which may be one of them, or one that they wait for.
        let closing = Arc::clone(&opened);
        if thread::Builder::new().spawn(move || close(closing)).is_err() {
            // Rather than that it waits for itself, it stays.
            std::mem::forget(opened);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_label(classifier: Handle, id: usize) -> *const c_char {
    nimbert_task_label(classifier, 0, id)
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_task_label(classifier: Handle, task: usize, id: usize) -> *const c_char {
    answer_pointer(|| {
        let names = &handles::get::<Opened>(classifier)?.names;
        let outside = || argument(format!("expected a task below {}, found {task}", names.len()));
        let labels = &names.get(task).ok_or_else(outside)?.labels;
        let outside = || argument(format!("expected an id below {}, found {id}", labels.len()));
        labels.get(id).map(|label| label.as_ptr()).ok_or_else(outside)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_classify(
    classifier: Handle,
    text: Text,
    pair: Text,
    options: GivenCallOptions,
    results: Place,
) -> i32 {
    answer_handle(results, || {
        classify(classifier, vec![TextInput { text: text.read("text")?, pair: pair.optional("pair")? }], &options)
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_classify_batch(
    classifier: Handle,
    inputs: GivenInputs,
    count: usize,
    options: GivenCallOptions,
    results: Place,
) -> i32 {
    answer_handle(results, || classify(classifier, inputs.read(count)?, &options))
}

fn classify(classifier: Handle, inputs: Vec<TextInput>, options: &GivenCallOptions) -> Result<Handle> {
    let opened = handles::get::<Opened>(classifier)?;
    let (predictions, _) = opened.classifier.classify_with(inputs, waiting(options)?)?;
    Ok(handles::insert(Arc::new(Results::new(predictions, &opened.names))))
}

/// Options of a call that is waited for.
fn waiting(options: &GivenCallOptions) -> Result<CallOptions<'static>> {
    let options = options.read()?;
    let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    Ok(CallOptions { deadline, truncation: options.truncation, ..CallOptions::default() })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_explain(
    classifier: Handle,
    input: GivenInputs,
    of: GivenExplainOptions,
    options: GivenCallOptions,
    results: Place,
) -> i32 {
    answer_handle(results, || {
        let opened = handles::get::<Opened>(classifier)?;
        let [input] = input.read(1)?[..] else { return Err(argument("input: expected one")) };
        let (explained, attribution) = of.read()?;
        let explanation = opened.classifier.explain(input, explained, attribution, waiting(&options)?)?;
        Ok(handles::insert(Arc::new(Results::explained(explanation, &opened.names))))
    })
}

#[unsafe(no_mangle)]
extern "C" fn nimbert_submit(
    classifier: Handle,
    inputs: GivenInputs,
    count: usize,
    options: GivenCallOptions,
    callback: Option<unsafe extern "C" fn(Handle, *mut c_void)>,
    user_data: *mut c_void,
    call: Place,
) -> i32 {
    answer_handle(call, || {
        let opened = handles::get::<Opened>(classifier)?;
        let owned = |input: TextInput| OwnedInput { text: input.text.into(), pair: input.pair.map(Into::into) };
        let inputs = inputs.read(count)?.into_iter().map(owned).collect();
        let options = options.read()?;
        // Never waits: a callback that runs in here, since the system gives no threads, may submit too.
        let background = opened.background.try_read().ok();
        let closed = || failure(INVALID_HANDLE, "expected a classifier, found one that is being closed");
        let background = background.as_ref().and_then(|background| background.as_ref()).ok_or_else(closed)?;
        let call = Arc::new(Call::default());
        let handle = handles::insert(Arc::clone(&call));
        let callback = callback.map(|function| Callback { function, call: handle, user_data });
        let (done_call, names) = (Arc::clone(&call), Arc::clone(&opened.names));
        let done = move |result: nimbert::Result<Vec<_>>| {
            done_call.set(caught(|| Ok(Arc::new(Results::new(result?, &names)))));
            if let Some(callback) = callback {
                callback.run();
            }
        };
        // Nobody else sets it.
        let _ = call.pending.set(background.submit(inputs, options, done));
        Ok(handle)
    })
}
