//! A proxy between a consumer and its broker, which sees every frame: it kills channels and connections at any moment, and
//! knows how long each message has been with the consumer without an ack.
//!
//! A channel is killed by the broker itself, for an ack of a tag that it never gave, which the proxy puts between two
//! frames of the consumer: so acks that are under way are lost as they would be in the field.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::time;

const METHOD: u8 = 1;
const FRAME_END: u8 = 0xCE;
const HEADER: usize = 7;
/// Class and method of `basic`.
const CONSUME: [u8; 4] = [0, 60, 0, 20];
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const ACK: [u8; 4] = [0, 60, 0, 80];
const REJECT: [u8; 4] = [0, 60, 0, 90];
/// No broker gives so many.
const UNKNOWN_TAG: u64 = 1 << 60;

/// See the module's text. Ends when dropped.
#[derive(Debug)]
pub struct AmqpProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    over: AtomicBool,
    links: Mutex<Vec<Arc<Link>>>,
    /// In µs.
    longest: AtomicU64,
    delivered: AtomicU64,
}

/// One connection through the proxy.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    /// Held while a whole frame is written to the broker.
    to_server: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the consumer.
    channel: Option<u16>,
    unacked: BTreeMap<u64, Duration>,
    gone: bool,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AmqpProxy {
    /// # Errors
    /// When there is no port to listen on.
    pub fn start(broker_port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: (Ipv4Addr::LOCALHOST, broker_port).into(),
            over: AtomicBool::new(false),
            links: Mutex::default(),
            longest: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if serving.over.load(Ordering::Relaxed) {
                    return;
                }
                // A broker that is away is what a refused connection looks like from here.
                let Ok(server) = TcpStream::connect(serving.upstream) else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let link = Arc::new(Link { client, server, to_server: Mutex::default() });
                lock(&serving.links).push(link.clone());
                for way in [up, down] {
                    let (shared, link) = (serving.clone(), link.clone());
                    std::thread::spawn(move || {
                        let _ = way(&shared, &link);
                        link.cut(&shared);
                    });
                }
            }
        });
        Ok(Self { address, shared })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    /// Has the broker close the channel of every consumer; answers how many.
    ///
    /// # Errors
    /// When a broker does not read.
    pub fn kill_channels(&self) -> io::Result<usize> {
        let mut killed = 0;
        for link in lock(&self.shared.links).iter() {
            let state = lock(&link.to_server);
            let Some(channel) = state.channel.filter(|_| !state.gone) else { continue };
            let mut frame = vec![METHOD];
            frame.extend(channel.to_be_bytes());
            frame.extend(13_u32.to_be_bytes());
            frame.extend(ACK);
            frame.extend(UNKNOWN_TAG.to_be_bytes());
            frame.extend([0, FRAME_END]);
            if (&link.server).write_all(&frame).is_ok() {
                killed += 1;
            }
        }
        Ok(killed)
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        let links = std::mem::take(&mut *lock(&self.shared.links));
        for link in links {
            link.cut(&self.shared);
        }
    }

    /// The longest that a message has been without its ack, up to now.
    #[must_use]
    pub fn longest_unacked(&self) -> Duration {
        let now = time::mono();
        let links = lock(&self.shared.links);
        let oldest = |link: &Arc<Link>| lock(&link.to_server).unacked.values().min().copied();
        let open = links.iter().filter_map(oldest).map(|since| now.saturating_sub(since)).max();
        let ended = Duration::from_micros(self.shared.longest.load(Ordering::Relaxed));
        open.unwrap_or_default().max(ended)
    }

    /// Messages that were handed to consumers, each time that they were.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// Messages that consumers hold now.
    #[must_use]
    pub fn unacked(&self) -> usize {
        lock(&self.shared.links).iter().map(|link| lock(&link.to_server).unacked.len()).sum()
    }
}

impl Drop for AmqpProxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.cut();
        // For the thread that waits for it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Link {
    fn cut(&self, shared: &Shared) {
        let _ = (self.client.shutdown(Shutdown::Both), self.server.shutdown(Shutdown::Both));
        let mut state = lock(&self.to_server);
        state.gone = true;
        settle(shared, &mut state, 0..=u64::MAX);
    }
}

/// What was unacked is not any more.
fn settle(shared: &Shared, state: &mut State, tags: std::ops::RangeInclusive<u64>) {
    let mut later = state.unacked.split_off(tags.start());
    let beyond = tags.end().checked_add(1).map(|end| later.split_off(&end)).unwrap_or_default();
    for since in later.into_values() {
        let micros = u64::try_from(time::mono().saturating_sub(since).as_micros()).unwrap_or(u64::MAX);
        shared.longest.fetch_max(micros, Ordering::Relaxed);
    }
    state.unacked.extend(beyond);
}

/// One whole frame.
fn frame(from: &mut impl Read, into: &mut Vec<u8>) -> io::Result<()> {
    into.resize(HEADER, 0);
    from.read_exact(into)?;
    let size = into.get(3..HEADER).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    let end = HEADER + usize::try_from(size).unwrap_or(0) + 1;
    into.resize(end, 0);
    from.read_exact(into.get_mut(HEADER..).unwrap_or_default())
}

fn tag(bytes: &[u8]) -> u64 {
    bytes.get(..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// From the consumer to the broker.
fn up(shared: &Shared, link: &Link) -> io::Result<()> {
    let mut from = io::BufReader::new(&link.client);
    let mut hello = [0; 8];
    from.read_exact(&mut hello)?;
    (&link.server).write_all(&hello)?;
    let mut bytes = Vec::new();
    loop {
        frame(&mut from, &mut bytes)?;
        let mut state = lock(&link.to_server);
        if let [METHOD, high, low, _, _, _, _, method @ ..] = &bytes[..] {
            match method.get(..4) {
                Some(of) if *of == CONSUME => state.channel = Some(u16::from_be_bytes([*high, *low])),
                Some(of) if *of == ACK => {
                    let tag = tag(&method[4..]);
                    let multiple = method.get(12).is_some_and(|bits| bits & 1 == 1);
                    settle(shared, &mut state, if multiple { 0..=tag } else { tag..=tag });
                }
                Some(of) if *of == REJECT => {
                    let tag = tag(&method[4..]);
                    settle(shared, &mut state, tag..=tag);
                }
                _ => {}
            }
        }
        (&link.server).write_all(&bytes)?;
    }
}

/// From the broker to the consumer.
fn down(shared: &Shared, link: &Link) -> io::Result<()> {
    let mut from = io::BufReader::with_capacity(256 * 1024, &link.server);
    let mut to = io::BufWriter::with_capacity(256 * 1024, &link.client);
    let mut bytes = Vec::new();
    loop {
        frame(&mut from, &mut bytes)?;
        if let [METHOD, _, _, _, _, _, _, method @ ..] = &bytes[..]
            && method.get(..4) == Some(&DELIVER[..])
            && let Some(length) = method.get(4)
        {
            let at = 5 + usize::from(*length);
            lock(&link.to_server).unacked.insert(tag(&method[at..]), time::mono());
            shared.delivered.fetch_add(1, Ordering::Relaxed);
        }
        to.write_all(&bytes)?;
        if from.buffer().is_empty() {
            to.flush()?;
        }
    }
}
