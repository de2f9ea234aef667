//! `cargo xtask bench tasks`: other kinds of text and of labels, beside transformers on the same rows.

use anyhow::Result;

use super::{
    Outcome, TORCH, TRANSFORMERS, Training,
    datasets::{BBC_LABELS, Labelled, bbc, rated},
    machine, percent, prepare, write_csv,
};

/// A task: rows of a file's columns, the first of which are trained on.
struct Task {
    name: &'static str,
    header: &'static str,
    rows: Vec<Vec<String>>,
    train: usize,
    test: usize,
    epochs: usize,
    separator: Option<&'static str>,
    pair: Option<&'static str>,
    /// nimbert once more with these arguments, which the peer has no match for.
    further: Option<(&'static str, &'static [&'static str])>,
}

impl Task {
    /// One text, one label.
    fn single(name: &'static str, rows: Vec<Labelled>) -> Self {
        let rows = rows.into_iter().map(Labelled::into_cells).collect();
        Self {
            name,
            header: "text,label",
            rows,
            train: 800,
            test: 1000,
            epochs: 4,
            separator: None,
            pair: None,
            further: None,
        }
    }
}

pub(crate) fn tasks() -> Result<()> {
    let python = prepare()?;
    println!("{}; {TORCH}, {TRANSFORMERS}; base all-MiniLM-L6-v2", machine());
    println!("Of three labels or more nimbert's head begins as a regression, which is not in its rows a second.\n");
    println!("| task | program | accuracy | macro F1 | micro F1 | int8 accuracy | rows/s |");
    println!("|---|---|---|---|---|---|---|");
    let news = bbc()?;
    let long: (&str, &[&str]) = ("nimbert, --long-text stride", &["--long-text", "stride"]);
    let all = [
        Task::single("tweets: positive or negative", rated("tweets_GroundTruth.txt")?),
        Task::single("amazon: positive or negative", rated("amazonReviewSnippets_GroundTruth.txt")?),
        Task {
            train: 300,
            test: 400,
            epochs: 3,
            further: Some(long),
            ..Task::single("BBC news: 5 topics", news.clone())
        },
        several_topics(&news),
        same_topic(&news),
    ];
    for task in all {
        let train = write_csv("task-train.csv", task.header, &task.rows[..task.train])?;
        let test = write_csv("task-test.csv", task.header, &task.rows[task.train..task.train + task.test])?;
        let Task { separator, pair, epochs, .. } = task;
        let training =
            Training { test: Some(&test), epochs, separator, pair, ..Training::of_base("models/minilm", &train) };
        print(task.name, "nimbert", &training.nimbert(&[])?);
        print(task.name, "transformers", &training.transformers(&python, &[])?);
        if let Some((name, arguments)) = task.further {
            print(task.name, name, &training.nimbert(arguments)?);
        }
    }
    Ok(())
}

fn print(task: &str, program: &str, outcome: &Outcome) {
    let [accuracy, macro_f1, micro_f1, int8] =
        [outcome.accuracy, outcome.macro_f1, outcome.micro_f1, outcome.int8_accuracy].map(percent);
    let rate = outcome.rows_per_second;
    println!("| {task} | {program} | {accuracy} | {macro_f1} | {micro_f1} | {int8} | {rate:.1} |");
}

/// The first words of an article.
fn beginning(text: &str) -> String {
    const WORDS: usize = 30;
    text.split_whitespace().take(WORDS).collect::<Vec<_>>().join(" ")
}

/// The beginnings of one, two or three articles in one text, which has the topics of all.
fn several_topics(news: &[Labelled]) -> Task {
    let mut rows = Vec::new();
    let mut rest = news;
    for count in (1..=3).cycle() {
        let Some((articles, remaining)) = rest.split_at_checked(count) else { break };
        rest = remaining;
        let text = articles.iter().map(|article| beginning(&article.text)).collect::<Vec<_>>().join(" ");
        let has = |label: &&str| articles.iter().any(|article| article.label == *label);
        let labels: Vec<&str> = BBC_LABELS.into_iter().filter(has).collect();
        rows.push(vec![text, labels.join("|")]);
    }
    let (train, test) = (rows.len() / 2, rows.len() - rows.len() / 2);
    let name = "BBC news: all topics of one to three beginnings";
    Task { rows, train, test, epochs: 6, separator: Some("|"), ..Task::single(name, Vec::new()) }
}

/// Two beginnings: of the same topic or not.
fn same_topic(news: &[Labelled]) -> Task {
    let mut rows = Vec::new();
    for (index, pair) in news.chunks_exact(2).enumerate() {
        // Chance makes a fifth of the pairs alike; every other one gets a partner of its own topic further on.
        let partner = match index % 2 {
            0 => &pair[1],
            _ => news[2 * index + 1..].iter().find(|article| article.label == pair[0].label).unwrap_or(&pair[1]),
        };
        let label = if partner.label == pair[0].label { "same" } else { "different" };
        rows.push(vec![beginning(&pair[0].text), beginning(&partner.text), label.to_owned()]);
    }
    let (train, test) = (rows.len() / 2, rows.len() - rows.len() / 2);
    let name = "BBC news: two beginnings of one topic or not";
    Task {
        header: "text,second,label",
        rows,
        train,
        test,
        epochs: 6,
        pair: Some("second"),
        ..Task::single(name, vec![])
    }
}
