//! `nimbert explain`: which words of a text speak for an answer, and which against it.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use nimbert::{
    CallOptions, Prediction, TextInput,
    explain::{Attribution, EXACT_WORDS, Explained, Explanation, ORDERS, Word},
    prediction::escaped,
};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nimbert explain reviews-bundle \"A dull plot, but what acting!\"
  nimbert explain reviews-bundle \"A dull plot, but what acting!\" --label negative --attribution shapley
  nimbert explain reviews-bundle \"A dull plot, but what acting!\" --html > why.html

A word's attribution is by how much it raises the label's logit over the mean of all labels' (the logit alone, where a text may \
have several). Signs are words too. Up to ten words they are Shapley values: what a word adds, averaged over all orders in which \
the words could come in; their sum is the difference of the whole text to none, and ten words take 1,024 runs. Of longer texts it is \
what leaving out the word alone changes, a run a word, unless --attribution shapley asks for an average over 32 orders, whose sum is \
that difference too, for 32 runs a word.")]
pub(super) struct Args {
    /// The bundle: a folder, or a .nimbert file
    bundle: PathBuf,
    /// The text
    text: String,
    /// The second text, for a classifier of pairs
    #[arg(long, value_name = "TEXT")]
    pair: Option<String>,
    /// The task whose answer is explained, of a bundle with several [default: the first]
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
    /// The label that is explained [default: the one that the text gets]
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// What a word's attribution is; auto: shapley up to ten words, else leave-one-out
    #[arg(long, default_value = "auto", value_name = "auto|leave-one-out|shapley")]
    attribution: Attribution,
    /// Print one JSON object; where a word stands is in bytes of its text
    #[arg(long, conflicts_with = "html")]
    json: bool,
    /// Print a page: the text, its words coloured by their attributions
    #[arg(long)]
    html: bool,
    #[command(flatten)]
    open: super::OpenArgs,
}

/// No attribution is drawn larger than its share of this, since it may be rounding.
const LEAST: f64 = 0.01;
/// Words of a long text that are listed.
const LISTED: usize = 20;
/// Characters of the longest bar.
const BAR: usize = 24;

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let classifier = super::open(&args.bundle, &args.open.options()?)?;
    let input = TextInput { text: &args.text, pair: args.pair.as_deref() };
    let of = Explained { task: args.task.as_deref(), label: args.label.as_deref() };
    let explanation = classifier.explain(input, of, args.attribution, CallOptions::default())?;
    let most = explanation.words.iter().map(|word| word.attribution.abs()).fold(LEAST, f64::max);
    let shown =
        Shown { input, label: &explanation.prediction.scores[explanation.label_id].0, explanation: &explanation, most };
    let mut out = io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", shown.json())?);
    }
    if args.html {
        return Ok(out.write_all(shown.html().as_bytes())?);
    }
    let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Ok(out.write_all(shown.text(is_coloured).as_bytes())?)
}

/// An explanation, as it is told.
struct Shown<'a> {
    input: TextInput<'a>,
    label: &'a str,
    explanation: &'a Explanation,
    /// The largest attribution, whatever its sign.
    most: f64,
}

impl Shown<'_> {
    fn word(&self, word: &Word) -> &str {
        let text = if word.is_of_pair { self.input.pair.unwrap_or_default() } else { self.input.text };
        &text[word.range.clone()]
    }

    fn json(&self) -> Value {
        let word = |word: &Word| {
            let mut json = Map::new();
            json.insert("word".to_owned(), json!(self.word(word)));
            json.insert("start".to_owned(), json!(word.range.start));
            json.insert("end".to_owned(), json!(word.range.end));
            if self.input.pair.is_some() {
                json.insert("text".to_owned(), json!(if word.is_of_pair { 2 } else { 1 }));
            }
            json.insert("attribution".to_owned(), json!(word.attribution));
            Value::Object(json)
        };
        let Explanation { prediction, value, base_value, words, unread, .. } = self.explanation;
        json!({
            "prediction": prediction.to_json(None),
            "label": self.label,
            "attribution": self.explanation.attribution.name(),
            "value": value,
            "base_value": base_value,
            "unread_words": unread,
            "words": words.iter().map(word).collect::<Vec<_>>(),
        })
    }

    /// The input, each word as `mark` writes it, and all else as `plain` does.
    fn marked(&self, plain: impl Fn(&str) -> String, mark: impl Fn(&str, f64) -> String) -> Vec<String> {
        let of = |text: &str, is_of_pair: bool| {
            let (mut marked, mut end) = (String::new(), 0);
            for word in self.explanation.words.iter().filter(|word| word.is_of_pair == is_of_pair) {
                marked += &plain(&text[end..word.range.start]);
                marked += &mark(&text[word.range.clone()], word.attribution / self.most);
                end = word.range.end;
            }
            marked + &plain(&text[end..])
        };
        std::iter::once(of(self.input.text, false)).chain(self.input.pair.map(|pair| of(pair, true))).collect()
    }

    /// What the input is answered, where that is not the label.
    fn answer(&self) -> String {
        let Prediction { labels, unknown, abstained, .. } = &self.explanation.prediction;
        if [self.label] == labels[..] && !unknown && !abstained {
            return String::new();
        }
        format!(" (the answer is {})", self.explanation.prediction.summary())
    }

    fn text(&self, is_coloured: bool) -> String {
        let Explanation { prediction, value, base_value, words, unread, attribution, .. } = self.explanation;
        let score = prediction.scores[self.explanation.label_id].1;
        let (label, answer) = (escaped(self.label), self.answer());
        let mut shown = format!("{label}  {score:.4}{answer}: {value:+.3}, of no words {base_value:+.3}\n");
        if is_coloured {
            // What speaks for the label on green, what against it on red, and what hardly does on nothing.
            let mark = |word: &str, share: f64| match share {
                share if share >= 0.1 => format!("\u{1b}[30;42m{}\u{1b}[0m", escaped(word)),
                share if share <= -0.1 => format!("\u{1b}[30;41m{}\u{1b}[0m", escaped(word)),
                _ => escaped(word),
            };
            self.marked(escaped, mark).iter().for_each(|line| shown += &format!("{line}\n"));
        }
        let mut listed: Vec<&Word> = words.iter().collect();
        if listed.len() > LISTED {
            listed.sort_by(|a, b| b.attribution.abs().total_cmp(&a.attribution.abs()));
            listed.truncate(LISTED);
            listed.sort_by_key(|word| (word.is_of_pair, word.range.start));
        }
        let names: Vec<String> = listed.iter().map(|word| escaped(self.word(word))).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        for (word, name) in listed.iter().zip(&names) {
            let bar = "█".repeat((word.attribution.abs() / self.most * BAR as f64).round() as usize);
            let _ = writeln!(shown, "{name:>width$}  {:+.3} {bar}", word.attribution);
        }
        let how = match attribution {
            _ if words.is_empty() => "no words".to_owned(),
            Attribution::Shapley if words.len() <= EXACT_WORDS => "Shapley values".to_owned(),
            Attribution::Shapley => format!("Shapley values over {ORDERS} orders of the words"),
            _ => "what leaving out each word changes".to_owned(),
        };
        let told = |count: usize, what: &str| if count > 0 { format!("; {count} {what}") } else { String::new() };
        let left_out = told(words.len() - listed.len(), "further words do less and are not shown");
        shown + &how + &left_out + &told(*unread, "words are cut off by the bundle's length") + "\n"
    }

    fn html(&self) -> String {
        let Explanation { prediction, value, base_value, unread, .. } = self.explanation;
        let score = prediction.scores[self.explanation.label_id].1;
        let mark = |word: &str, share: f64| {
            let colour = if share >= 0.0 { "46,160,67" } else { "218,54,51" };
            let (word, attribution) = (in_html(word), share * self.most);
            let style = format!("background:rgba({colour},{:.2})", share.abs() * 0.8);
            format!("<span style=\"{style}\" title=\"{attribution:+.3}\">{word}</span>")
        };
        let texts: String = self
            .marked(in_html, mark)
            .iter()
            .map(|text| format!("<p class=\"text\" dir=\"auto\">{text}</p>\n"))
            .collect();
        let (label, answer) = (in_html(self.label), in_html(&self.answer()));
        let cut = if *unread > 0 { format!(" {unread} words are cut off.") } else { String::new() };
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>Why {label}</title>\n<style>\n\
             :root {{ color-scheme: light dark; }}\n\
             body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem; }}\n\
             .text {{ white-space: pre-wrap; overflow-wrap: anywhere; }}\n\
             span {{ border-radius: 0.2em; padding: 0.1em 0; }}\n</style>\n</head>\n<body>\n\
             <h1>{label} {score:.4}{answer}</h1>\n{texts}\
             <p>Green speaks for {label}, red against it ({}): {value:+.3}, of no words {base_value:+.3}.{cut}</p>\n\
             </body>\n</html>\n",
            self.explanation.attribution.name()
        )
    }
}

/// Text as HTML; what one would not see of it as U+FFFD.
fn in_html(text: &str) -> String {
    let escape = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c if c.is_control() && !matches!(c, '\n' | '\t') => '\u{fffd}'.to_string(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}
