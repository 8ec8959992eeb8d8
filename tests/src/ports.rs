//! Ports for servers of tests.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below what kernels give to outgoing connections (from 32768 on Linux, from 49152 on macOS): a server that was
/// killed finds its port free again, whoever has connected to whom meanwhile.
const RANGE: Range<u16> = 20_000..32_000;

/// A loopback port that nobody listens on, and that no other test is given until this process ends.
///
/// # Errors
/// When there is none, or the folder of temporary files cannot be written.
pub fn free_port() -> io::Result<u16> {
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("roundsman-ports");
    std::fs::create_dir_all(&folder)?;
    let count = u64::from(RANGE.end - RANGE.start);
    let first = RandomState::new().hash_one(std::process::id()) % count;
    for step in 0..count {
        let port = RANGE.start + u16::try_from((first + step) % count).unwrap_or_default();
        let lock = File::options().create(true).append(true).open(folder.join(port.to_string()))?;
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            HELD.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrNotAvailable, format!("no port of {RANGE:?} is free")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let given: BTreeSet<u16> = (0..100).map(|_| free_port().unwrap()).collect();
        assert_eq!(given.len(), 100);
        for port in given {
            assert!(RANGE.contains(&port));
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
