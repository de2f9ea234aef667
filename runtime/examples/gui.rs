//! A window must not freeze: a thread of its own classifies, and the thread that draws asks and looks for answers.
//!
//! Standard input plays the user who types. A new line makes the answer to the one before it worthless, so it is cancelled.
//!
//!     cargo run --release --example gui -- BUNDLE

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use nimbert::{CallOptions, Classifier, Error, Options, Prediction};

/// What the user has typed, and whether it still matters.
struct Question {
    text: String,
    is_outdated: Arc<AtomicBool>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bundle = std::env::args().nth(1).ok_or("usage: gui BUNDLE")?;
    let (ask, questions) = mpsc::channel::<Question>();
    let (answer, answers) = mpsc::channel::<(String, Result<Prediction, Error>)>();
    let worker = thread::spawn(move || -> Result<(), Error> {
        // Opening takes a moment too: not in the thread that draws.
        let classifier = Classifier::open(bundle, &Options::default())?;
        for Question { text, is_outdated } in questions {
            let options = CallOptions { cancel: Some(&is_outdated), ..CallOptions::default() };
            let result = classifier.classify_with([text.as_str()], options);
            // Where the window is closed, nobody wants the answer.
            let _ = answer.send((text, result.map(|(mut predictions, _)| predictions.remove(0))));
        }
        Ok(())
    });
    // Here a window would draw, and look for answers in between: `try_iter` never waits.
    let show = |(text, result): (String, Result<Prediction, Error>)| match result {
        Ok(prediction) => println!("{text}: {} ({:.2})", prediction.summary(), prediction.score),
        Err(Error::Cancelled) => {}
        Err(error) => println!("{text}: {error}"),
    };
    let mut last = Arc::new(AtomicBool::new(false));
    for text in std::io::stdin().lines() {
        last.store(true, Ordering::Relaxed);
        last = Arc::default();
        ask.send(Question { text: text?, is_outdated: Arc::clone(&last) })?;
        answers.try_iter().for_each(show);
    }
    drop(ask);
    answers.iter().for_each(show);
    Ok(worker.join().expect("a thread that does not panic")?)
}
