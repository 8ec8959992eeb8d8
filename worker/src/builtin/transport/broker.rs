//! Connections to AMQP brokers: made as those of all transports are, and handed to the AMQP library, which would look names
//! up and connect by itself, and does no TLS here.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream as Sequence;
use futures_util::task::AtomicWaker;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use roundsman_shared::reach::Reach;
use tokio::io::ReadBuf;
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};
use url::Url;

use super::amqp::trouble;
use super::circuit::Destination;
use super::connect::{Connector, Stream, Trouble};

/// The library keeps room for many frames; messages are small, and larger ones go in several.
const FRAME: u32 = 16 * 1024;

/// A connection to the broker of an `amqp://` or `amqps://` URL, wherever it is. The library's own recovery is off: a
/// connection that breaks is to be made anew. `heartbeat` is in seconds, where the URL does not say.
///
/// # Errors
/// Why there is none, in words, without the URL's secrets.
pub async fn connect(url: &str, heartbeat: u16) -> Result<Connection, String> {
    let server = Url::parse(url).map_err(|error| format!("amqp.url: {error}"))?;
    let to = Destination::of(&server);
    let connected = open(&Connector::default(), &server, &to, &Reach::anywhere(), Some(heartbeat)).await;
    connected.map_err(|trouble| match trouble {
        Trouble::Refused(text)
        | Trouble::Broken(text)
        | Trouble::Unwanted(text)
        | Trouble::Hopeless(text) => text,
    })
}

pub(super) async fn open(
    connector: &Connector,
    server: &Url,
    to: &Destination,
    reach: &Reach,
    heartbeat: Option<u16>,
) -> Result<Connection, Trouble> {
    let mut uri: AMQPUri =
        server.as_str().parse().map_err(|error| Trouble::Hopeless(format!("{to}: {error}")))?;
    uri.query.frame_max.get_or_insert(FRAME);
    uri.query.heartbeat = uri.query.heartbeat.or(heartbeat);
    let stream = connector.open(to, reach, server.scheme() == "amqps").await?;
    let (stream, hold) = cuttable(stream);
    let given = Mutex::new(Some(stream));
    let take = move || {
        let stream = given.lock().ok().and_then(|mut given| given.take());
        stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    };
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Given(Tokio::current())));
    let connect = async move |_, _| Ok(AsyncTcpStream::Plain(take()?.compat()));
    let properties = ConnectionProperties::default().with_connection_name("roundsman".into());
    let connected = Connection::connector(uri, runtime, connect, properties).await;
    let connection = connected.map_err(|error| trouble(to, &error))?;
    hold.keep();
    Ok(connection)
}

/// The library reads on a thread of its own, for as long as the other side keeps the connection. Whoever does not wait for
/// a broker that says nothing must take the connection from it.
fn cuttable(stream: Stream) -> (Stream, Hold) {
    let cut = Arc::new(Cut::default());
    (Box::new(Cuttable { stream, cut: cut.clone() }), Hold(Some(cut)))
}

#[derive(Default)]
struct Cut {
    made: AtomicBool,
    reader: AtomicWaker,
}

/// Cuts when dropped.
struct Hold(Option<Arc<Cut>>);

impl Hold {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(cut) = &self.0 {
            cut.made.store(true, Ordering::Release);
            cut.reader.wake();
        }
    }
}

struct Cuttable {
    stream: Stream,
    cut: Arc<Cut>,
}

impl tokio::io::AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.cut.reader.register(context.waker());
        if self.cut.made.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl tokio::io::AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Tokio's reactor for the AMQP library, but that it makes no connections: it is given ours.
#[derive(Debug, Clone)]
struct Given(Tokio);

impl Reactor for Given {
    type TcpStream = Compat<Stream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, span: Duration) -> Self::Sleep {
        self.0.sleep(span)
    }

    fn interval(&self, span: Duration) -> impl Sequence<Item = Instant> + Send + 'static {
        self.0.interval(span)
    }

    fn tcp_connect_addr(
        &self,
        _: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
