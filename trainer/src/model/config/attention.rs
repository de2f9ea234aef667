//! What `config.json` says about attention, which is where families differ most.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::{DistanceConfig, LayerConfig};
use crate::{
    error::{Error, Result},
    model::family::AttentionKind,
};

/// The layers' types in transformers 5, for ModernBERT.
const GLOBAL: &str = "full_attention";
const LOCAL: &str = "sliding_attention";

/// The fields of all families.
#[derive(Deserialize)]
pub(super) struct Json {
    // ModernBERT
    global_attn_every_n_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    local_attention: Option<usize>,
    global_rope_theta: Option<f32>,
    /// Null is said too: that of the others.
    #[serde(default, deserialize_with = "said")]
    local_rope_theta: Option<Option<f32>>,
    rope_parameters: Option<serde_json::Map<String, Value>>,
    rope_scaling: Option<Value>,
    // MPNet
    relative_attention_num_buckets: Option<usize>,
    // DeBERTa
    relative_attention: Option<bool>,
    position_buckets: Option<i64>,
    max_relative_positions: Option<i64>,
    norm_rel_ebd: Option<String>,
    share_att_key: Option<bool>,
    pos_att_type: Option<Value>,
    attention_head_size: Option<usize>,
    pooler_hidden_size: Option<usize>,
}

/// What is made of them.
pub(super) struct Attention {
    pub(super) layers: Vec<LayerConfig>,
    pub(super) distances: Option<DistanceConfig>,
}

impl Json {
    pub(super) fn read(&self, path: &Path, json: &super::Json, kind: AttentionKind) -> Result<Attention> {
        let layers = vec![LayerConfig::default(); json.num_hidden_layers];
        match kind {
            AttentionKind::Plain | AttentionKind::None => Ok(Attention { layers, distances: None }),
            AttentionKind::Alternating => Ok(Attention { layers: self.alternating(path, json)?, distances: None }),
            AttentionKind::Biased => {
                let buckets = self.relative_attention_num_buckets.unwrap_or(32);
                if buckets < 4 || !buckets.is_multiple_of(4) || buckets > 256 {
                    let expected = "a multiple of 4 up to 256 as relative_attention_num_buckets";
                    return Err(Error::model(path, expected, buckets.to_string()));
                }
                Ok(Attention { layers, distances: Some(DistanceConfig::Bias { buckets }) })
            }
            AttentionKind::Disentangled => Ok(Attention { layers, distances: self.disentangled(path, json)? }),
        }
    }

    /// ModernBERT's layers.
    fn alternating(&self, path: &Path, json: &super::Json) -> Result<Vec<LayerConfig>> {
        let width = json.hidden_size / json.num_attention_heads;
        if !width.is_multiple_of(2) {
            return Err(Error::model(path, "heads of an even width, for rotary positions", width.to_string()));
        }
        if let Some(scaling) = self.rope_scaling.as_ref().filter(|scaling| !scaling.is_null()) {
            return Err(Error::model(path, "rotary positions without rope_scaling", scaling.to_string()));
        }
        let global = self.theta(path, GLOBAL, self.global_rope_theta.unwrap_or(160_000.0))?;
        let usual = self.local_rope_theta.map_or(10_000.0, |theta| theta.unwrap_or(global));
        let local = self.theta(path, LOCAL, usual)?;
        let global = LayerConfig { window: None, rotary_theta: Some(global) };
        let window = self.local_attention.unwrap_or(128) / 2;
        let local = LayerConfig { window: Some(window), rotary_theta: Some(local) };
        let Some(types) = &self.layer_types else {
            let every = self.global_attn_every_n_layers.unwrap_or(3).max(1);
            let layer = |index: usize| if index.is_multiple_of(every) { global } else { local };
            return Ok((0..json.num_hidden_layers).map(layer).collect());
        };
        if types.len() != json.num_hidden_layers {
            let expected = format!("{} layer_types, one a layer", json.num_hidden_layers);
            return Err(Error::model(path, expected, types.len().to_string()));
        }
        let layer = |name: &String| match name.as_str() {
            GLOBAL => Ok(global),
            LOCAL => Ok(local),
            other => Err(Error::model(path, format!("layer_types {GLOBAL} or {LOCAL}"), other)),
        };
        types.iter().map(layer).collect()
    }

    /// The base of wavelengths that `rope_parameters` has for a type of layers, as transformers 5 writes it.
    fn theta(&self, path: &Path, layer_type: &str, usual: f32) -> Result<f32> {
        let parameters = self.rope_parameters.as_ref().and_then(|all| all.get(layer_type));
        if let Some(kind) =
            parameters.and_then(|parameters| parameters.get("rope_type")).filter(|kind| *kind != "default")
        {
            return Err(Error::model(path, "rotary positions of rope_type default", kind.to_string()));
        }
        let theta = match parameters.and_then(|parameters| parameters.get("rope_theta")) {
            None => usual,
            Some(theta) => theta.as_f64().unwrap_or_default() as f32,
        };
        if !theta.is_finite() || theta < 1.0 {
            return Err(Error::model(path, format!("a rope_theta of {layer_type} from 1"), theta.to_string()));
        }
        Ok(theta)
    }

    /// DeBERTa's vectors for distances.
    fn disentangled(&self, path: &Path, json: &super::Json) -> Result<Option<DistanceConfig>> {
        let expect = |holds: bool, expected: &str, got: String| {
            if holds { Ok(()) } else { Err(Error::model(path, expected, got)) }
        };
        let hidden = json.hidden_size;
        let width = json.embedding_size.unwrap_or(hidden);
        expect(width == hidden, "an embedding_size that is the hidden_size", width.to_string())?;
        let pooler = self.pooler_hidden_size.unwrap_or(hidden);
        expect(pooler == hidden, "a pooler_hidden_size that is the hidden_size", pooler.to_string())?;
        let head = self.attention_head_size.unwrap_or(hidden / json.num_attention_heads);
        let usual = hidden / json.num_attention_heads;
        expect(head == usual, &format!("an attention_head_size of {usual}"), head.to_string())?;
        if !self.relative_attention.unwrap_or(false) {
            return Ok(None);
        }
        let shared = self.share_att_key.unwrap_or(false);
        expect(shared, "keys that contents and positions share (share_att_key true)", shared.to_string())?;
        let kinds = match &self.pos_att_type {
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).map(str::to_lowercase).collect(),
            Some(Value::String(kinds)) => kinds.to_lowercase().split('|').map(|kind| kind.trim().to_owned()).collect(),
            _ => Vec::new(),
        };
        let both = kinds.len() == 2 && ["c2p", "p2c"].iter().all(|kind| kinds.iter().any(|own| own == kind));
        expect(both, "pos_att_type c2p and p2c", format!("{kinds:?}"))?;
        let norms = self.norm_rel_ebd.as_deref().unwrap_or("none").to_lowercase();
        let has_norm = norms.split('|').any(|norm| norm.trim() == "layer_norm");
        let widest = match self.max_relative_positions {
            Some(positions) if positions >= 1 => positions as usize,
            _ => json.max_position_embeddings,
        };
        let span = match self.position_buckets {
            Some(buckets) if buckets > 0 => buckets as usize,
            _ => return Ok(Some(DistanceConfig::Vectors { span: widest, widest: None, has_norm })),
        };
        let holds = span >= 4 && widest > span / 2 + 1;
        expect(
            holds,
            "at least 4 position_buckets, and more positions than half of them",
            format!("{span} and {widest}"),
        )?;
        Ok(Some(DistanceConfig::Vectors { span, widest: Some(widest), has_norm }))
    }
}

/// Makes a `config.json` that has a list of the layers' types say those of `layers`, which may be fewer than there were.
pub(super) fn write(layers: &[LayerConfig], json: &mut serde_json::Map<String, Value>) {
    if json.get("layer_types").is_some_and(Value::is_array) {
        let name = |layer: &LayerConfig| if layer.window.is_none() { GLOBAL } else { LOCAL };
        json.insert("layer_types".into(), layers.iter().map(name).collect());
    }
}

/// What is there, be it null.
fn said<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<f32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}
