//! One classifier for many threads, as in a server: texts that come at the same time are run together.
//!
//!     cargo run --release --example threads -- BUNDLE TEXT…

use std::time::{Duration, Instant};

use nimbert::{CallOptions, Classifier, Error, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, bundle, texts @ ..] = &arguments[..] else { return Err("usage: threads BUNDLE TEXT…".into()) };
    // Not more than a thousand texts may wait: better to refuse one than to answer all of them too late.
    let options = Options { queue_limit: Some(1000), ..Options::default() };
    let classifier = Classifier::open(bundle, &options)?;
    std::thread::scope(|scope| {
        for text in texts {
            // A reference will do: `classify` takes &self.
            let classifier = &classifier;
            scope.spawn(move || {
                let deadline = Some(Instant::now() + Duration::from_secs(1));
                let options = CallOptions { deadline, ..CallOptions::default() };
                match classifier.classify_with([text], options) {
                    Ok((predictions, timing)) => {
                        println!("{text}: {}, {:?} in the queue", predictions[0].summary(), timing.queue);
                    }
                    Err(Error::QueueFull { .. } | Error::DeadlinePassed) => println!("{text}: try again later"),
                    Err(error) => println!("{text}: {error}"),
                }
            });
        }
    });
    Ok(())
}
