//! The socket that the API listens on outlives the process: who takes over asks for it over a Unix socket, and gets the very
//! one (`SCM_RIGHTS`, as HAProxy hands on its own). So no connection that the kernel has let in, or is about to, is in a queue
//! that goes away.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::net::{TcpListener, UnixListener};

/// The process before answers within so long, or it is as if there were none.
const ANSWER: Duration = Duration::from_secs(1);
/// What carries the socket, since nothing is sent with no byte at all.
const BYTE: &[u8] = b"l";
/// After an `accept` that failed.
const BREATH: Duration = Duration::from_millis(50);

/// The socket of the process that this one takes over from.
///
/// # Errors
/// When there is none, or it listens elsewhere.
pub(super) fn ask(path: &Path, address: SocketAddr) -> io::Result<TcpListener> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let listener = std::net::TcpListener::from(receive(&stream)?);
    let found = listener.local_addr()?;
    if found != address {
        return Err(io::Error::other(format!("it listens on {found}")));
    }
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut carried = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut carried, RecvFlags::CMSG_CLOEXEC)?;
    let found = carried.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Gives a socket to whoever asks for it, as long as it is polled. Takes the place of the process before.
///
/// # Errors
/// When the path cannot be listened on.
pub(super) fn offer(path: &Path, listener: &TcpListener) -> io::Result<impl Future<Output = ()> + use<>> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The folder is its user's alone.
    let door = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let socket = listener.as_fd().try_clone_to_owned()?;
    Ok(async move {
        loop {
            let sent = async {
                let (stream, _) = door.accept().await?;
                send(&stream.into_std()?, &socket)
            };
            if let Err(error) = sent.await {
                tracing::debug!(%error, "the API's socket could not be handed over");
                tokio::time::sleep(BREATH).await;
            }
        }
    })
}

fn send(stream: &UnixStream, socket: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut carried = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    carried.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(stream, &[IoSlice::new(BYTE)], &mut carried, SendFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    async fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
    }

    #[tokio::test]
    async fn who_was_let_in_before_is_served_by_the_successor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let old = listener().await;
        let address = old.local_addr().unwrap();
        let offering = tokio::spawn(offer(&path, &old).unwrap());
        let mut early = TcpStream::connect(address).unwrap();
        early.write_all(b"early").unwrap();
        let taken = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                let stream = UnixStream::connect(path).unwrap();
                receive(&stream).unwrap()
            })
        };
        let new = std::net::TcpListener::from(taken.await.unwrap());
        offering.abort();
        let _ = offering.await;
        drop(old);
        new.set_nonblocking(false).unwrap();
        let mut text = [0; 5];
        new.accept().unwrap().0.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"early");
        assert!(ask(&path, address).is_err(), "nobody offers it any more");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_socket_of_another_address_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let (old, other) = (listener().await, listener().await);
        let _offering = tokio::spawn(offer(&path, &old).unwrap());
        let address = old.local_addr().unwrap();
        assert_eq!(ask(&path, address).unwrap().local_addr().unwrap(), address);
        let told = ask(&path, other.local_addr().unwrap()).unwrap_err().to_string();
        assert!(told.contains(&address.to_string()), "{told}");
    }
}
