//! Waiting for descriptors that tokio has no type for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime, for reading.
///
/// # Errors
/// When the runtime cannot watch it.
#[expect(deprecated, reason = "an owned descriptor upholds what the unsafe replacement asks of its caller")]
pub(crate) fn for_reading(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
