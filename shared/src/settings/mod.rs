//! Settings
pub mod units;
