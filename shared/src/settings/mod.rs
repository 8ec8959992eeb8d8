//! Settings: read from every place that may name them, each value with its origin.

pub mod environment;
pub mod units;

mod origin;
mod secret;
mod tree;
mod value;

pub use self::environment::Environment;
pub use self::origin::{Origin, Problem, SettingsError};
pub use self::secret::{Secret, SecretUrl};
