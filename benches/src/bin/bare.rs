//! What one writes in an hour with ort and tokenizers, as fastembed does it: parse tokenizer.json, load the graph, and
//! run texts in the order in which they come, padded by batches. `cargo xtask bench runtime` measures nimbert beside it.
//!
//! ```text
//! bare GRAPH.onnx TOKENIZER.json BATCH_SIZE TEXT…       the index of each text's label
//! bare GRAPH.onnx TOKENIZER.json BATCH_SIZE -           the same for each line of standard input
//! ```

use std::io::{BufRead, Write};

use anyhow::{Context, Result};
use ort::{
    session::{Session, builder::GraphOptimizationLevel},
    value::Tensor,
};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

const MAX_LENGTH: usize = 128;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [graph, tokenizer, batch_size, texts @ ..] = &arguments[..] else {
        anyhow::bail!("usage: bare GRAPH.onnx TOKENIZER.json BATCH_SIZE TEXT…|-");
    };
    let batch_size: usize = batch_size.parse().context("BATCH_SIZE")?;
    let library = std::env::var("ORT_DYLIB_PATH").context("ORT_DYLIB_PATH")?;
    let environment = ort::init_from(library)?.build()?;
    let threads = std::thread::available_parallelism()?.get();
    let builder = Session::builder(&environment)?.with_optimization_level(GraphOptimizationLevel::All);
    let builder = builder.map_err(|error| anyhow::anyhow!("{error}"))?.with_intra_threads(threads);
    let mut session = builder.map_err(|error| anyhow::anyhow!("{error}"))?.commit_from_file(graph)?;
    let mut tokenizer = Tokenizer::from_file(tokenizer).map_err(anyhow::Error::msg)?;
    tokenizer.with_padding(Some(PaddingParams::default()));
    let truncation = TruncationParams { max_length: MAX_LENGTH, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(anyhow::Error::msg)?;

    let mut lines: Box<dyn Iterator<Item = String>> = match texts {
        [dash] if dash == "-" => Box::new(std::io::stdin().lock().lines().map_while(Result::ok)),
        texts => Box::new(texts.iter().cloned()),
    };
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    loop {
        let batch: Vec<String> = lines.by_ref().take(batch_size).collect();
        if batch.is_empty() {
            return Ok(());
        }
        for label in classify(&mut session, &tokenizer, batch)? {
            writeln!(out, "{label}")?;
        }
        out.flush()?;
    }
}

fn classify(session: &mut Session, tokenizer: &Tokenizer, texts: Vec<String>) -> Result<Vec<usize>> {
    let encodings = tokenizer.encode_batch(texts, true).map_err(anyhow::Error::msg)?;
    let shape = [encodings.len(), encodings[0].len()];
    let tensor = |values: fn(&tokenizers::Encoding) -> &[u32]| {
        let values: Vec<i64> = encodings.iter().flat_map(values).map(|&id| id.into()).collect();
        Tensor::from_array((shape, values))
    };
    let outputs = session.run(ort::inputs! {
        "input_ids" => tensor(tokenizers::Encoding::get_ids)?,
        "attention_mask" => tensor(tokenizers::Encoding::get_attention_mask)?,
        "token_type_ids" => tensor(tokenizers::Encoding::get_type_ids)?,
    })?;
    let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>()?;
    let best = |row: &[f32]| (0..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best });
    Ok(logits.chunks_exact(shape[1] as usize).map(best).collect())
}
