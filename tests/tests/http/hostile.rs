//! Clients that mean no good, or know no better.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_tests::wait::wait_for;

use crate::rig::{LATE, NOBODY, Rig, SOON, Store, http_process, on_both, read_all};

on_both!(
    odd_requests_are_answered_or_cut_off,
    requests_in_a_row_are_answered_in_order,
    slow_heads_are_cut_off_and_hold_nobody_up,
    thousands_of_connections_are_served,
);

const JOB: &str = r#"{"payload":1}"#;

fn status(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default()
}

fn odd_requests_are_answered_or_cut_off(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let up = rig.up();
    let process = http_process(&up);
    let post = "POST /api/v1/queues/q/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let chunked = format!("{post}transfer-encoding: chunked\r\n\r\n");
    let huge = format!("GET /ping HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(1024 * 1024));
    let many: String = (0..5000).map(|n| format!("x{n}: y\r\n")).collect();
    for (request, expected) in [
        ("GET /ping HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 200"),
        ("GET /ping HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (
            "GET /ping HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "HTTP/1.1 400",
        ),
        (
            "GET http://evil.example/ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
                .to_owned(),
            "HTTP/1.1 421",
        ),
        ("nonsense\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /ping HTTP/3.7\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /pi ng HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("GET /ping HTTP/1.1\r\nhost: local\0host\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        // Another protocol.
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), ""),
        (huge, "HTTP/1.1 431"),
        (format!("GET /ping HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"), "HTTP/1.1 431"),
        (format!("{chunked}d\r\n{JOB}\r\n0\r\n\r\n"), "HTTP/1.1 201"),
        (format!("{chunked}zz\r\n{JOB}\r\n0\r\n\r\n"), "HTTP/1.1 400"),
        (format!("{chunked}ffffffffffffffffff\r\n{JOB}"), "HTTP/1.1 400"),
        (format!("{post}content-length: 13\r\ncontent-length: 14\r\n\r\n{JOB}"), "HTTP/1.1 400"),
        (format!("{post}content-length: -1\r\n\r\n{JOB}"), "HTTP/1.1 400"),
        (format!("{post}content-length: 13\r\nexpect: 100-continue\r\n\r\n{JOB}"), "HTTP/1.1 100"),
    ] {
        let answer = rig.client.raw(request.as_bytes());
        let shown = request.chars().take(120).collect::<String>();
        assert!(status(&answer).starts_with(expected), "{shown:?} was answered {answer:?}");
    }
    // A body that never comes is not waited for once the client is gone.
    rig.client.connect().write_all(format!("{post}content-length: 13\r\n\r\n{{").as_bytes()).unwrap();
    assert_eq!(rig.client.get("/api/v1/queues/q").data(200)["ready"], 2);
    assert_eq!(http_process(&up), process, "it died of it");
}

fn requests_in_a_row_are_answered_in_order(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let request = |number: u32| {
        let job = format!("{{\"payload\":{number},\"id\":\"j{number}\"}}");
        let head = "POST /api/v1/queues/q/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length";
        format!("{head}: {}\r\n\r\n{job}", job.len())
    };
    let mut requests: String = (0..50).map(request).collect();
    requests.push_str("GET /ping HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answers = rig.client.raw(requests.as_bytes());
    let ids: Vec<&str> =
        answers.split("\"id\":\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(ids, (0..50).map(|number| format!("j{number}")).collect::<Vec<_>>(), "{answers}");
}

fn slow_heads_are_cut_off_and_hold_nobody_up(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let _up = rig.up();
    let mut slow: Vec<TcpStream> = (0..200).map(|_| rig.client.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /ping HTTP/1.1\r\nhost: local").unwrap();
    }
    let begun = Mono::now();
    assert_eq!(rig.client.get("/ping").status, 200);
    assert!(Mono::now().since(begun) < Duration::from_secs(5));
    let mut first = slow.swap_remove(0);
    read_all(&mut first);
    let took = Mono::now().since(begun);
    assert!((Duration::from_secs(25)..LATE).contains(&took), "{took:?}");
}

fn thousands_of_connections_are_served(store: Store) {
    let rig = Rig::new(store, NOBODY);
    let up = rig.up();
    let process = http_process(&up);
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(12_000);
    if soft < wanted {
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    }
    let count = usize::try_from(wanted - 1000).unwrap().min(10_000);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rig.client.port));
    let mut open: Vec<TcpStream> = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect_timeout(&address, SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        open.push(stream);
    }
    // Each of them is one that it may have; all are answered.
    for stream in &mut open {
        stream.write_all(b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    }
    let mut head = [0; 12];
    for stream in &mut open {
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    }
    let memory = process.pss().unwrap();
    assert!(memory < 400 * 1024 * 1024, "{count} connections cost {memory} bytes");
    drop(open);
    wait_for("a new client to be served", SOON, || match rig.client.try_send("GET", "/readyz", &[], "") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    assert_eq!(http_process(&up), process, "it died of it");
}
