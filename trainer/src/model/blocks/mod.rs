//! What encoders are made of: a file for each kind of block, which says what it computes, in training and in the graph.

mod attention;
mod batch;
mod distances;
mod embeddings;
mod feed_forward;
mod head;
mod layer;
mod linear;
mod norm;

pub(super) use attention::Texts;
pub(super) use batch::{Answers, BatchContext};
pub(super) use distances::DistanceTable;
pub(super) use embeddings::Embeddings;
pub(super) use head::Head;
pub(crate) use head::{INPUT as HEAD_INPUT, scaled};
pub(super) use layer::Layer;
pub(super) use norm::Norm;
