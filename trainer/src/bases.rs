//! Base models to begin with: what a newcomer asks first. Sizes are millions of numbers, computed from each `config.json`;
//! licences and languages are those of the models' cards (sources: models/README.md).

/// A base model, or several that differ in size only.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Base {
    /// Its name on the hub, or those of its series.
    pub names: &'static [&'static str],
    /// Under which it may be used.
    pub licence: &'static str,
    /// Those it was trained on.
    pub languages: &'static str,
    /// Millions of numbers, of embeddings and of everything else, by name.
    pub millions: &'static [[f64; 2]],
    /// The longest text.
    pub tokens: &'static str,
    /// Its kind, and how many tokens it knows.
    pub tokenizer: &'static str,
    /// What it is a good choice for.
    pub good_for: &'static str,
}

/// The default first.
pub const BASES: [Base; 15] = [
    Base {
        names: &["sentence-transformers/all-MiniLM-L6-v2"],
        licence: "Apache-2.0",
        languages: "English",
        millions: &[[11.7, 11.0]],
        tokens: "512",
        tokenizer: "WordPiece, 30,522",
        good_for: "the default: short texts, a model within the hour",
    },
    Base {
        names: &["google/electra-small-discriminator"],
        licence: "Apache-2.0",
        languages: "English",
        millions: &[[3.9, 9.6]],
        tokens: "512",
        tokenizer: "WordPiece, 30,522",
        good_for: "very small models",
    },
    Base {
        names: &[
            "jhu-clsp/ettin-encoder-17m",
            "jhu-clsp/ettin-encoder-32m",
            "jhu-clsp/ettin-encoder-68m",
            "jhu-clsp/ettin-encoder-150m",
        ],
        licence: "MIT",
        languages: "English",
        millions: &[[12.9, 3.9], [19.3, 12.5], [25.8, 42.4], [38.7, 110.3]],
        tokens: "8,192",
        tokenizer: "byte-level BPE, 50,368",
        good_for: "ModernBERT in small; long texts",
    },
    Base {
        names: &["distilbert/distilbert-base-uncased"],
        licence: "Apache-2.0",
        languages: "English",
        millions: &[[23.4, 42.9]],
        tokens: "512",
        tokenizer: "WordPiece, 30,522",
        good_for: "95 % of BERT-base's GLUE score at 60 % more speed, says its paper",
    },
    Base {
        names: &["google-bert/bert-base-uncased"],
        licence: "Apache-2.0",
        languages: "English",
        millions: &[[23.4, 86.0]],
        tokens: "512",
        tokenizer: "WordPiece, 30,522",
        good_for: "the baseline of the literature",
    },
    Base {
        names: &["microsoft/deberta-v3-xsmall", "microsoft/deberta-v3-small", "microsoft/deberta-v3-base"],
        licence: "MIT",
        languages: "English",
        millions: &[[49.2, 21.5], [98.4, 42.9], [98.4, 85.5]],
        tokens: "512",
        tokenizer: "Unigram, 128,100",
        good_for: "the most accurate for their size on MNLI (88.1, 88.3, 90.6)",
    },
    Base {
        names: &["answerdotai/ModernBERT-base"],
        licence: "Apache-2.0",
        languages: "English, code",
        millions: &[[38.7, 110.3]],
        tokens: "8,192",
        tokenizer: "byte-level BPE, 50,368",
        good_for: "long texts, code",
    },
    Base {
        names: &["sentence-transformers/all-mpnet-base-v2"],
        licence: "Apache-2.0",
        languages: "English",
        millions: &[[23.4, 86.0]],
        tokens: "512",
        tokenizer: "WordPiece, 30,527",
        good_for: "few labels: its vectors of sentences are better than MiniLM's",
    },
    Base {
        names: &["FacebookAI/roberta-base"],
        licence: "MIT",
        languages: "English",
        millions: &[[38.6, 86.0]],
        tokens: "512",
        tokenizer: "byte-level BPE, 50,265",
        good_for: "where upper and lower case matter",
    },
    Base {
        names: &["albert/albert-base-v2"],
        licence: "Apache-2.0",
        languages: "English",
        millions: &[[3.8, 7.8]],
        tokens: "512",
        tokenizer: "Unigram, 30,000",
        good_for: "few numbers to ship; as slow as BERT-base",
    },
    Base {
        names: &["intfloat/multilingual-e5-small"],
        licence: "MIT",
        languages: "some 100",
        millions: &[[96.0, 21.6]],
        tokens: "512",
        tokenizer: "Unigram, 250,037",
        good_for: "many languages in a small model, trimmed",
    },
    Base {
        names: &["FacebookAI/xlm-roberta-base"],
        licence: "MIT",
        languages: "100",
        millions: &[[192.0, 86.0]],
        tokens: "512",
        tokenizer: "Unigram, 250,002",
        good_for: "many languages",
    },
    Base {
        names: &["microsoft/mdeberta-v3-base"],
        licence: "MIT",
        languages: "102",
        millions: &[[192.8, 85.5]],
        tokens: "512",
        tokenizer: "Unigram, 251,000",
        good_for: "many languages, more accurate than XLM-R on XNLI (79.8 against 76.2)",
    },
    Base {
        names: &["jhu-clsp/mmBERT-small"],
        licence: "MIT",
        languages: "1,833",
        millions: &[[98.3, 42.2]],
        tokens: "8,192",
        tokenizer: "BPE, 256,000",
        good_for: "long texts in many languages, trimmed",
    },
    Base {
        names: &["almanach/camembert-base"],
        licence: "MIT",
        languages: "French",
        millions: &[[24.6, 86.0]],
        tokens: "512",
        tokenizer: "Unigram, 32,005",
        good_for: "French",
    },
];

impl Base {
    /// As a row of the table in models/README.md.
    pub fn markdown(&self) -> String {
        let Self { licence, languages, tokens, tokenizer, good_for, .. } = self;
        let (names, sizes) = (self.names.join(", "), self.sizes());
        format!("| {names} | {licence} | {languages} | {sizes} | {tokens} | {tokenizer} | {good_for} |")
    }

    /// `embeddings + everything else` in millions, by name.
    pub fn sizes(&self) -> String {
        let size = |[embeddings, rest]: &[f64; 2]| format!("{embeddings:.1} + {rest:.1}");
        self.millions.iter().map(size).collect::<Vec<_>>().join(", ")
    }
}
