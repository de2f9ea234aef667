//! What is wrong with a graph.

/// What was expected, and what is there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) expected: String,
    pub(crate) got: String,
}
