//! The connections: bounded in number, in the bytes of a head, and in the time that a client may take over anything.
//!
//! ```text
//! accept ──▶ a task a connection: TLS, heads within HEAD, answers; TCP's own timer ends who does not read
//!        └─▶ at most `most` at once; the next waits in the kernel
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tower_service::Service as _;

/// From a connection, or the answer before, to a whole head; and for a TLS handshake.
const HEAD: Duration = Duration::from_secs(30);
/// The same for the first of a connection, when the process is about to leave.
const FIRST: Duration = Duration::from_secs(1);
/// Bytes of a head.
const HEAD_BYTES: usize = 64 * 1024;
/// Sent bytes that nobody takes for so long end the connection.
const UNREAD_MS: u32 = 30_000;
/// Connections at once, where the limit of open files lets them be.
const MOST: usize = 16_384;
/// Connections that wait in the kernel to be taken.
const BACKLOG: u32 = 4096;
/// Open files that are not connections.
const OTHER_FILES: u64 = 256;
/// After an `accept` that failed, as for want of file descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Listens on the address. `beside`: also while a process does that hands nothing on; both share what comes in until that
/// one stops.
pub(super) fn listen(address: SocketAddr, beside: bool) -> std::io::Result<TcpListener> {
    let socket = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // The connections of an earlier life do not hold the port.
        socket.set_reuseaddr(true).map(|()| socket)
    };
    if !beside {
        // Shared only with a successor: without this a second fleet would take half of the first one's connections.
        socket()?.bind(address)?;
    }
    let socket = socket()?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Takes connections until told to stop, then waits for those that are under way.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let mut told = stop.clone();
    let most = connections();
    let room = Arc::new(Semaphore::new(most));
    loop {
        let accept = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = async { drop(told.wait_for(|stop| *stop).await) } => break,
            (permit, accepted) = accept => match (permit, accepted) {
                (Ok(permit), Ok((stream, _))) => {
                    let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
                    tokio::spawn(connection(stream, tls, router, stop, permit));
                }
                (_, Err(error)) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                }
                (Err(_closed), _) => break,
            },
        }
    }
    // Who has been let in by the kernel is not turned away; the next one meets the successor, if there is one.
    while let Some((stream, permit)) = waiting(&listener, &room).await {
        tokio::spawn(connection(stream, tls.clone(), router.clone(), stop.clone(), permit));
    }
    drop(listener);
    let all = u32::try_from(most).unwrap_or(u32::MAX);
    // All permits are back when all connections are over.
    let _ = room.acquire_many(all).await;
}

/// A connection that waits to be taken, if there is room for it.
async fn waiting(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = room.clone().try_acquire_owned().ok()?;
    let accepted = std::future::poll_fn(|context| match listener.poll_accept(context) {
        Poll::Ready(Ok((stream, _))) => Poll::Ready(Some(stream)),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
    });
    Some((accepted.await?, permit))
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
) {
    // Neither is worth losing a connection for.
    let _ = stream.set_nodelay(true);
    let _ = set_tcp_user_timeout(&stream, UNREAD_MS);
    match tls {
        None => talk(stream, router, stop).await,
        Some(tls) => match tokio::time::timeout(HEAD, tls.accept(stream)).await {
            Ok(Ok(stream)) => talk(stream, router, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_late) => {}
        },
    }
    drop(permit);
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, mut stop: watch::Receiver<bool>) {
    let (heard, told) = (&Notify::new(), stop.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        heard.notify_one();
        let (answer, told) = (router.clone().call(request.map(Body::new)), told.clone());
        async move {
            let mut answer = answer.await.unwrap_or_else(|never| match never {});
            if *told.borrow() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = async { drop(stop.wait_for(|stop| *stop).await) } => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // Whoever has just been let in has not had the time to say what for.
            let said = tokio::time::timeout(FIRST, heard.notified());
            let ended = tokio::select! {
                ended = connection.as_mut() => Some(ended),
                _ = said => None,
            };
            match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection broke off");
    }
}

/// As many files as this process may open, and so many connections as that lets be.
fn connections() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 512 };
    let wanted = hard.min(u64::try_from(MOST).unwrap_or(u64::MAX).saturating_add(OTHER_FILES));
    let soft =
        if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() { wanted } else { soft };
    usize::try_from(soft.saturating_sub(OTHER_FILES)).unwrap_or(MOST).clamp(16, MOST)
}

/// The certificate and key that the settings name.
pub(super) fn tls(files: Option<&(PathBuf, PathBuf)>) -> Result<Option<TlsAcceptor>, String> {
    let Some((cert, key)) = files else { return Ok(None) };
    let wrong = |key: &str, path: &PathBuf, why: String| format!("http.{key}: {}: {why}", path.display());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| wrong("tls_cert", cert, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("tls_cert", cert, "holds no certificate".to_owned()));
    }
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("tls_key", key, error.to_string()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, secret))
        .map_err(|error| wrong("tls_cert", cert, error.to_string()))?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use roundsman_shared::clock::Mono;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A connection, its client, and the word to stop.
    fn open() -> (tokio::task::JoinHandle<()>, tokio::io::DuplexStream, watch::Sender<bool>) {
        let (client, server) = tokio::io::duplex(4096);
        let (stop, stopped) = watch::channel(false);
        let router = Router::new().route("/", get(async || "served"));
        (tokio::spawn(talk(server, router, stopped)), client, stop)
    }

    #[tokio::test]
    async fn who_has_just_been_let_in_is_answered_though_the_process_leaves() {
        let (talking, mut client, stop) = open();
        stop.send(true).unwrap();
        tokio::time::sleep(FIRST / 2).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
        assert!(answer.ends_with("served"), "{answer}");
        talking.await.unwrap();
    }

    #[tokio::test]
    async fn who_says_nothing_and_who_was_answered_keep_nobody() {
        let (talking, client, stop) = open();
        let begun = Mono::now();
        stop.send(true).unwrap();
        talking.await.unwrap();
        assert!(Mono::now().since(begun) >= FIRST);
        drop(client);

        let (talking, mut client, stop) = open();
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        let begun = Mono::now();
        stop.send(true).unwrap();
        talking.await.unwrap();
        assert!(Mono::now().since(begun) < FIRST);
    }
}
