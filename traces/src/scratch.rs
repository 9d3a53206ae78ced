//! What tests of traces are made in and of.

use std::path::Path;

use specrouter_routing::profile::{ModelKind, ModelSpec, Precision};

use crate::manifest::Member;

/// A folder that goes away with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// An error's text with the folder's own name taken out.
    pub fn text(&self, error: &impl std::fmt::Display) -> String {
        error.to_string().replace(&self.path().display().to_string(), "DIR")
    }
}

/// A model of no size.
pub(crate) fn member(name: &str) -> Member {
    let spec = ModelSpec {
        name: name.to_owned(),
        source: "this test".to_owned(),
        kind: ModelKind::Model,
        family: "toy".to_owned(),
        layers: 1,
        hidden: 8,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        intermediate: 8,
        vocab: 16,
        tied_embeddings: true,
        context: 64,
        precision: Precision::Bf16,
        kv_bytes: 2,
    };
    Member { spec, weights_fnv1a: None }
}
