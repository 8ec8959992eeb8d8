//! A line to a server that can be cut as networks are cut: nothing comes through, and nobody is told.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// See the module's text. What was sent while it was cut arrives when it is whole again, as TCP would have it.
#[derive(Debug)]
pub struct Cable {
    address: SocketAddr,
    line: Arc<Line>,
}

#[derive(Debug, Default)]
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_cut: bool,
    is_over: bool,
}

impl Line {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Returns when it is whole; `false` when it is gone for good.
    fn wait_whole(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |state: &mut State| state.is_cut && !state.is_over;
        let state = self.changed.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
        !state.is_over
    }

    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
        let mut buffer = [0; 64 << 10];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 || !self.wait_whole() {
                return Ok(());
            }
            to.write_all(buffer.get(..read).unwrap_or_default())?;
        }
    }
}

impl Cable {
    /// To a server of this machine.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub fn start(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line::default());
        let serving = line.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A call that comes in while it is cut is answered by nobody until it is whole.
                let line = serving.clone();
                std::thread::spawn(move || {
                    if !line.wait_whole() {
                        return;
                    }
                    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    std::thread::scope(|scope| {
                        for (from, to) in [(&client, &server), (&server, &client)] {
                            let line = &line;
                            scope.spawn(move || {
                                let _ = line.carry(from, to);
                                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                            });
                        }
                    });
                });
                if serving.state.lock().unwrap_or_else(PoisonError::into_inner).is_over {
                    return;
                }
            }
        });
        Ok(Self { address, line })
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn cut(&self) {
        self.line.set(|state| state.is_cut = true);
    }

    pub fn mend(&self) {
        self.line.set(|state| state.is_cut = false);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.line.set(|state| state.is_over = true);
        // So that the listening thread looks.
        let _ = TcpStream::connect(self.address);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::Cable;

    #[test]
    fn what_is_sent_over_a_cut_cable_arrives_when_it_is_mended() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let cable = Cable::start(server.local_addr().unwrap().port()).unwrap();
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, cable.port())).unwrap();
        let (mut peer, _) = server.accept().unwrap();
        let mut byte = [0];
        client.write_all(b"a").unwrap();
        peer.read_exact(&mut byte).unwrap();
        cable.cut();
        client.write_all(b"b").unwrap();
        peer.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(peer.read(&mut byte).is_err(), "nothing comes through");
        cable.mend();
        peer.set_read_timeout(None).unwrap();
        peer.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"b");
        drop(cable);
        drop(client);
        assert_eq!(peer.read(&mut byte).unwrap(), 0);
    }
}
