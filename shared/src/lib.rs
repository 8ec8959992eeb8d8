//! shared
pub mod settings;
