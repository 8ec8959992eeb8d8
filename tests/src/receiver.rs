//! Small HTTP servers that a test makes: they write down what they are sent, and behave as the test says, also badly.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::time;

/// Between the bytes of a trickle, and the looks of one that hangs whether anybody is still there.
const TRICKLE: Duration = Duration::from_millis(50);
/// A request of a test is small.
const MAX_REQUEST: usize = 1024 * 1024;

/// A request as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// Unix µs.
    pub at_us: u64,
}

impl Seen {
    /// A header's value, or nothing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What a receiver does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status, headers (each with its line end) and body.
    Answer(u16, String, String),
    /// Nothing, for as long as the other side is there.
    Hang,
    /// A head at once, then a byte now and then.
    Trickle,
    /// A success whose body has no end.
    Endless,
    /// Closes the connection.
    Close,
}

impl Reply {
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer(status, String::new(), String::new())
    }
}

type Behave = dyn Fn(&Seen, usize) -> Reply + Send + Sync;

/// A running server. Ends with the fixture.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
}

impl Receiver {
    /// Starts it on a free port; `behave` is given each request and how many came before it.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn start(behave: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> std::io::Result<Self> {
        Self::start_on(0, behave)
    }

    /// As [`Self::start`], on this port.
    ///
    /// # Errors
    /// When it cannot be listened on.
    pub fn start_on(
        port: u16,
        behave: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let receiver = Self { address: listener.local_addr()?, seen: Arc::default(), over: Arc::default() };
        let (seen, over) = (receiver.seen.clone(), receiver.over.clone());
        let behave: Arc<Behave> = Arc::new(behave);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (seen, over, behave) = (seen.clone(), over.clone(), behave.clone());
                std::thread::spawn(move || serve(stream, &seen, &over, &*behave));
            }
        });
        Ok(receiver)
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://127.0.0.1:PORT/PATH`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Everything so far, in order.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>, over: &AtomicBool, behave: &Behave) {
    let _ = stream.set_read_timeout(Some(TRICKLE));
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, &mut buffer, over) {
        let number = {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push(request.clone());
            seen.len() - 1
        };
        let answered = match behave(&request, number) {
            Reply::Answer(status, headers, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).is_ok()
            }
            Reply::Hang => {
                let mut rest = [0; 1024];
                while !over.load(Ordering::Relaxed) && !matches!(stream.read(&mut rest), Ok(0)) {}
                false
            }
            Reply::Trickle => {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
                let mut open = stream.write_all(head.as_bytes()).is_ok();
                while open && !over.load(Ordering::Relaxed) {
                    std::thread::sleep(TRICKLE);
                    open = stream.write_all(b"x").is_ok();
                }
                false
            }
            Reply::Endless => {
                let mut open = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_ok();
                while open && !over.load(Ordering::Relaxed) {
                    open = stream.write_all(&[b'x'; 16 * 1024]).is_ok();
                }
                false
            }
            Reply::Close => false,
        };
        if !answered {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>, over: &AtomicBool) -> Option<Seen> {
    let mut chunk = [0; 16 * 1024];
    loop {
        if let Some((seen, length)) = parse(buffer) {
            buffer.drain(..length);
            return Some(seen);
        }
        if buffer.len() > MAX_REQUEST || over.load(Ordering::Relaxed) {
            return None;
        }
        match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(read) => buffer.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
            Err(_) => return None,
        }
    }
}

fn parse(buffer: &[u8]) -> Option<(Seen, usize)> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let body = buffer.get(end + 4..end + 4 + length)?;
    let body = String::from_utf8_lossy(body).into_owned();
    Some((Seen { method, path, headers, body, at_us: time::wall_us() }, end + 4 + length))
}
