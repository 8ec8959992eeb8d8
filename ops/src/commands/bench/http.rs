//! The API: timers one a call on many connections, and jobs as lines in one, beside calls that store nothing.

use std::time::Duration;

use futures_util::future::try_join_all;
use roundsman_shared::clock::Mono;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::fleet::{LOOK_EVERY, PATIENCE};
use super::{Bench, Row, per_second, rate};
use crate::errors::Failure;

const CONNECTIONS: usize = 50;
const ROUNDS: usize = 3;
/// Of one round; more would only take longer.
const MOST: usize = 50_000;
/// Lines of one call.
const LINES: usize = 10_000;
const ADDRESS: &str = "127.0.0.1";

/// A request as it is sent, again and again.
fn request(head: &str, port: u16, body: &str) -> Vec<u8> {
    format!("{head} HTTP/1.1\r\nhost: {ADDRESS}:{port}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

impl Bench<'_> {
    pub(super) async fn http(&self) -> Result<Vec<Row>, Failure> {
        let port = free_port()?;
        let _fleet = self
            .fleet_of(0, &format!("{ADDRESS}:{port}"), "[pools.default]\nqueues = [\"nobody\"]\n")
            .await?;
        wait_ready(port).await?;
        let timer = format!(
            r#"{{"timeout":86400000,"data":"{}","callback":{{"transport":"http","method":"post","uri":"https://example.com/wake"}}}}"#,
            "x".repeat(100)
        );
        let timer = request("POST /timer", port, &timer);
        let ping = request("GET /ping", port, "");
        let calls = self.args.jobs.min(MOST);
        let (mut timers, mut pings) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            pings.push(many(port, &ping, calls, 200).await?);
            timers.push(many(port, &timer, calls, 201).await?);
        }
        let (timers, pings) = (median(&mut timers), median(&mut pings));
        let lines = "{\"payload\":\"".to_owned() + &"x".repeat(98) + "\"}\n";
        let head = format!("POST /api/v1/queues/{}/jobs", self.queue);
        let body = lines.repeat(LINES);
        let typed = format!(
            "{head} HTTP/1.1\r\nhost: {ADDRESS}:{port}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let rounds = (self.args.jobs / LINES).clamp(1, 20);
        let mut client = Client::connect(port).await?;
        let start = Mono::now();
        for _ in 0..rounds {
            client.call(typed.as_bytes(), 207).await?;
        }
        let bulk = rate(rounds * LINES, Mono::now().since(start));
        Ok(vec![
            Row {
                figure: "POST /timer",
                value: per_second(timers),
                ratio: Some(timers / pings),
                note: format!(
                    "{CONNECTIONS} connections, stored before the answer; GET /ping: {}",
                    per_second(pings)
                ),
            },
            Row {
                figure: "NDJSON over HTTP",
                value: per_second(bulk),
                ratio: None,
                note: format!("one connection, {LINES} jobs a call"),
            },
        ])
    }
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or_default()
}

/// One that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind((ADDRESS, 0))?.local_addr()?.port())
}

async fn wait_ready(port: u16) -> Result<(), Failure> {
    let start = Mono::now();
    let ready = request("GET /readyz", port, "");
    loop {
        if let Ok(mut client) = Client::connect(port).await
            && client.call(&ready, 200).await.is_ok()
        {
            return Ok(());
        }
        if Mono::now().since(start) > PATIENCE {
            return Err(Failure::failed("the API of the bench's fleet does not come up"));
        }
        tokio::time::sleep(LOOK_EVERY.max(Duration::from_millis(20))).await;
    }
}

/// The same call so often, shared out to all connections; calls a second.
async fn many(port: u16, request: &[u8], calls: usize, status: u16) -> Result<f64, Failure> {
    let clients = try_join_all((0..CONNECTIONS).map(|_| Client::connect(port))).await?;
    let each = calls.div_ceil(CONNECTIONS);
    let start = Mono::now();
    try_join_all(clients.into_iter().map(|mut client| async move {
        for _ in 0..each {
            client.call(request, status).await?;
        }
        Ok::<_, Failure>(())
    }))
    .await?;
    Ok(rate(each * CONNECTIONS, Mono::now().since(start)))
}

/// A kept connection, read as little as one can.
struct Client {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Client {
    async fn connect(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect((ADDRESS, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), line: String::new() })
    }

    /// The next line, or nothing if it is empty.
    async fn line(&mut self) -> Result<Option<&str>, Failure> {
        self.line.clear();
        if self.stream.read_line(&mut self.line).await? == 0 {
            return Err(Failure::failed("the API closed the connection"));
        }
        let line = self.line.trim_end();
        Ok((!line.is_empty()).then_some(line))
    }

    async fn call(&mut self, request: &[u8], expected: u16) -> Result<(), Failure> {
        self.stream.get_mut().write_all(request).await?;
        let (mut status, mut length, mut is_chunked) = (0, 0, false);
        while let Some(line) = self.line().await? {
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            } else if let Some(("content-length", value)) = line.split_once(": ") {
                length = value.parse().unwrap_or(0);
            } else if line == "transfer-encoding: chunked" {
                is_chunked = true;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        while is_chunked {
            let size = self.line().await?.and_then(|line| usize::from_str_radix(line, 16).ok());
            let size = size.ok_or_else(|| Failure::failed("the API sent no chunk"))?;
            body.resize(size, 0);
            self.stream.read_exact(&mut body).await?;
            self.line().await?;
            is_chunked = size > 0;
        }
        if status == expected {
            return Ok(());
        }
        Err(Failure::failed(format!("the API answered {status}: {}", String::from_utf8_lossy(&body))))
    }
}
