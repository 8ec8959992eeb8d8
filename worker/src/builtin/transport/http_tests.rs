//! Exchanges with receivers made in the test: what is sent, and what an answer means.

use std::sync::Arc;

use roundsman_shared::callback::Body;
use roundsman_shared::job::Spec;
use roundsman_shared::names::{JobId, QueueName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::session::Task;

fn task() -> Task {
    let mut spec = Spec::bare(false, "1".to_owned());
    spec.headers.insert("traceparent".to_owned(), "00-1-2-01".to_owned());
    Task {
        seq: 1,
        queue: QueueName::new("q").unwrap(),
        id: JobId::new("job-1").unwrap(),
        token: 77,
        attempt: 3,
        spec: Arc::new(spec),
        timeout: Duration::from_secs(5),
        alone: false,
    }
}

fn answer(status: u16, retry_after: Option<&str>, body: &str) -> Answer {
    Answer { status, retry_after: retry_after.map(str::to_owned), body: body.into(), cut: false }
}

#[test]
fn what_answers_mean() {
    let well = Verdict::Well;
    let ill = |text: &str| Verdict::Ill(text.to_owned());
    let retry = |error: &str| format!("Retry {error} None");
    for (given, outcome, verdict) in [
        (answer(200, None, "{\"a\": 1}"), "Done {\"a\":1}".to_owned(), well.clone()),
        (answer(201, None, "made it"), "Done \"made it\"".to_owned(), well.clone()),
        (answer(204, None, ""), "Done ".to_owned(), well.clone()),
        (answer(302, None, ""), retry("302 Found (redirects are not followed)"), well.clone()),
        (
            answer(400, None, "no\r\n\x07 such\x1b[0m field"),
            retry("400 Bad Request: no such [0m field"),
            well.clone(),
        ),
        (answer(404, None, ""), retry("404 Not Found"), well.clone()),
        (answer(410, None, "gone"), "Dead 410 Gone: gone".to_owned(), well.clone()),
        (answer(429, Some("7"), ""), "Retry 429 Too Many Requests Some(7s)".to_owned(), well.clone()),
        (answer(429, None, ""), retry("429 Too Many Requests"), well.clone()),
        (answer(429, Some("soon"), ""), retry("429 Too Many Requests"), well),
        (
            answer(503, Some("7"), ""),
            "Retry 503 Service Unavailable Some(7s)".to_owned(),
            ill("503 Service Unavailable"),
        ),
        (
            answer(500, Some("7"), "oh"),
            retry("500 Internal Server Error: oh"),
            ill("500 Internal Server Error: oh"),
        ),
        (answer(599, None, ""), retry("599"), ill("599")),
        (answer(799, None, ""), retry("799"), ill("799")),
    ] {
        let (made, said) = judge(&given, 0);
        let made = match made {
            Outcome::Done { result, .. } => {
                format!("Done {}", result.map(|raw| raw.get().to_owned()).unwrap_or_default())
            }
            Outcome::Retry { error, after } => format!("Retry {error} {after:?}"),
            Outcome::Dead { error } => format!("Dead {error}"),
            other => panic!("{other:?}"),
        };
        assert_eq!((made, said), (outcome, verdict), "{given:?}");
    }
    let (long, _) = judge(&answer(500, None, &"x".repeat(100_000)), 0);
    assert!(matches!(long, Outcome::Retry { error, .. } if error.len() < 600));
}

#[test]
fn a_request_says_what_a_receiver_needs() {
    let task = task();
    let letter = Letter { task: &task, body: Body::Json("{\"a\":1}".to_owned()) };
    let url = Url::parse("https://us%65r:p%40ss@hooks.example.com:8443/a b/%2f?x=1#f").unwrap();
    let made = request("POST", &url, &letter, &Signer::new(["secret"]), 1_700_000_000).unwrap();
    assert_eq!((made.method().as_str(), made.uri().to_string()), ("POST", "/a%20b/%2f?x=1".to_owned()));
    let mut headers: Vec<String> =
        made.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    headers.retain(|header| !header.starts_with("webhook-signature: v1,"));
    assert_eq!(
        headers,
        [
            "host: hooks.example.com:8443",
            concat!("user-agent: roundsman/", env!("CARGO_PKG_VERSION")),
            "webhook-id: job-1",
            "webhook-timestamp: 1700000000",
            "roundsman-attempt: 3",
            "roundsman-token: 77",
            "content-type: application/json",
            "traceparent: 00-1-2-01",
            "authorization: Basic dXNlcjpwQHNz",
        ]
    );
    assert_eq!(made.headers().len(), headers.len() + 1);
    let url = Url::parse("http://[2606:4700::1]/").unwrap();
    let letter = Letter { task: &task, body: Body::Empty };
    let made = request("GET", &url, &letter, &Signer::new([]), 0).unwrap();
    assert_eq!(made.headers()["host"], "[2606:4700::1]");
    assert!(
        !made.headers().contains_key("content-type") && !made.headers().contains_key("webhook-signature")
    );
}

/// Answers each request on each connection by the next of these; connections that close are accepted anew.
async fn server(answers: Vec<&'static str>) -> (Url, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let serve = async move {
        let (mut connections, mut answers) = (0, answers.into_iter());
        let mut next = answers.next();
        while next.is_some() {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections += 1;
            let mut buffer = vec![0; 64 * 1024];
            while let Some(answer) = next {
                if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                    break;
                }
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
                next = answers.next();
                if answer.contains("close") {
                    break;
                }
            }
        }
        connections
    };
    (url, tokio::task::spawn_local(serve))
}

async fn deliver(http: &Http, url: &Url) -> Result<(Outcome, Verdict), Trouble> {
    let task = task();
    let letter = Letter { task: &task, body: Body::Empty };
    let (connector, signer) = (Connector::default(), Signer::new([]));
    http.deliver(&connector, "POST", url, &letter, &Reach::anywhere(), &signer).await
}

#[tokio::test(flavor = "local")]
async fn connections_are_used_again_while_they_are_open() {
    let plain = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let last = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let (url, served) = server(vec![plain, plain, last, plain, plain]).await;
    let http = Http::default();
    for _ in 0..5 {
        let (outcome, verdict) = deliver(&http, &url).await.unwrap();
        assert!(matches!(outcome, Outcome::Done { .. }) && verdict == Verdict::Well);
        assert!(http.kept() <= 1);
        tokio::task::yield_now().await;
    }
    assert_eq!(served.await.unwrap(), 2);
}

#[tokio::test(flavor = "local")]
async fn an_answer_without_end_is_cut() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let served = tokio::task::spawn_local(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        let mut sent = 0_usize;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {
            sent += 4096;
        }
        sent
    });
    let http = Http::default();
    let (outcome, _) = deliver(&http, &url).await.unwrap();
    let Outcome::Done { result: Some(result), note: Some(note), .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(result.get().len(), MAX_ANSWER + 2);
    assert!(note.contains("is cut"), "{note}");
    assert_eq!(http.kept(), 0);
    // It stops since the connection is closed, not since it has sent everything.
    assert!(served.await.unwrap() < 64 * 1024 * 1024);
}

#[tokio::test(flavor = "local")]
async fn what_is_no_http_is_broken() {
    for said in ["SSH-2.0-x\r\n", "", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(said.as_bytes()).await;
        });
        let trouble = deliver(&Http::default(), &url).await;
        assert!(matches!(trouble, Err(Trouble::Broken(_))), "{said:?}: {trouble:?}");
    }
}
