//! How a child process finds what its parent prepared for it: names of environment variables, and nothing else.
//! None of them holds a secret, and none is handed on to handlers.

/// The pid of the parent that started this process; another parent means that it has been orphaned.
pub const PARENT: &str = "ROUNDSMAN_INTERNAL_PARENT";
/// The nonce to say `hello` with.
pub const NONCE: &str = "ROUNDSMAN_INTERNAL_NONCE";
/// The path of the board to post running jobs on.
pub const BOARD: &str = "ROUNDSMAN_INTERNAL_BOARD";
/// The number of the descriptor that is the standard output of `up`.
pub const STDOUT: &str = "ROUNDSMAN_INTERNAL_STDOUT";
