//! Logs.

/// Starts logging to standard error.
pub fn start() {
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).try_init();
}
