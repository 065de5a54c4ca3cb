//! Kinds of layers and versions, in words for people.

use crate::layer::chain::Kind;
use crate::layer::format::LayerKind as Stored;

/// The kind of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Every version of its LSN range.
    Delta,
    /// Whole values.
    Image,
}

impl LayerKind {
    /// Its name: one word, lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            LayerKind::Delta => "delta",
            LayerKind::Image => "image",
        }
    }

    pub(crate) fn of(kind: Stored) -> LayerKind {
        match kind {
            Stored::Delta => LayerKind::Delta,
            Stored::Image => LayerKind::Image,
        }
    }
}

/// The kind of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionKind {
    /// Changes what was before it.
    Delta,
    /// Changes, too, but what was before it does not matter.
    Fresh,
    /// The whole value.
    Image,
}

impl VersionKind {
    /// Its name: one word, lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            VersionKind::Delta => "delta",
            VersionKind::Fresh => "fresh",
            VersionKind::Image => "image",
        }
    }

    pub(crate) fn of(kind: Kind) -> VersionKind {
        match kind {
            Kind::Delta => VersionKind::Delta,
            Kind::Fresh => VersionKind::Fresh,
            Kind::Image => VersionKind::Image,
        }
    }
}
