//! One text, several at once, a call that is given up, an error. The same in other languages lies beside this file.
//!
//!     cargo run --release --example classify -- BUNDLE

use std::sync::{Arc, mpsc};

use nimbert::{Background, BackgroundOptions, Classifier, Error, Options, OwnedInput, Prediction, SessionOptions};

fn print(prediction: &Prediction) {
    println!("{} {:.3}", prediction.label, prediction.score);
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bundle = std::env::args().nth(1).unwrap_or_else(|| "reviews.nimbert".to_owned());
    let session = SessionOptions { threads: Some(2), ..SessionOptions::default() };
    let options = Options { session, ..Options::default() };
    let classifier = Arc::new(Classifier::open(bundle, &options)?);
    print(&classifier.classify("I love this movie!")?);

    let texts = ["dull", "a delight from start to finish", "well, it ends"];
    classifier.classify_batch(texts)?.iter().for_each(print);

    // A call that this thread does not wait for; the answer comes on another one. `classify_with` takes a flag that cancels
    // a call that is waited for.
    let background = Background::new(Arc::clone(&classifier));
    let many = vec![OwnedInput::from("a long story that nobody waits for".to_owned()); 20_000];
    let (answer, answers) = mpsc::channel();
    let call = background.submit(many, BackgroundOptions::default(), move |result| {
        // Where nobody waits any more, nobody wants it.
        let _ = answer.send(result);
    });
    call.cancel();
    match answers.recv()? {
        Ok(predictions) => predictions.iter().for_each(print),
        Err(Error::Cancelled) => println!("cancelled"),
        Err(error) => return Err(error.into()),
    }

    if let Err(error) = Classifier::open("nowhere.nimbert", &options) {
        println!("{}: {error}", error.kind().name());
    }
    Ok(())
}
