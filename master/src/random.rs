//! Randomness for jitter and for names that are never used twice. Not for secrets.

use std::hash::{BuildHasher as _, RandomState};

use roundsman_shared::clock::Mono;

/// 64 random bits.
#[must_use]
pub(crate) fn bits() -> u64 {
    RandomState::new().hash_one(Mono::now())
}

/// From 0 to 1.
#[must_use]
pub(crate) fn fraction() -> f64 {
    (bits() >> 11) as f64 / (1_u64 << 53) as f64
}
