//! How the API holds up under load. Each figure is printed; those that take minutes are run by name:
//! `cargo nextest run --release --run-ignored only -E 'test(figures)' --no-capture`.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roundsman_shared::clock::Mono;
use roundsman_tests::tree::built;
use roundsman_tests::wait::wait_for;
use serde_json::{Value, json};

use crate::rig::{Client, LATE, NOBODY, Rig, SOON, Store, http_process, on_both};

on_both!(the_half_that_ends_is_answered_in_time, pages_of_many_jobs_come_at_once);

mod long {
    use super::Store;

    #[test]
    #[ignore = "takes a minute"]
    fn redis_halves_of_200_calls() {
        super::halves(Store::Redis, 200);
    }
    #[test]
    #[ignore = "takes a minute"]
    fn sqlite_halves_of_200_calls() {
        super::halves(Store::Sqlite, 200);
    }
    #[test]
    #[ignore = "takes a minute"]
    fn redis_pages_of_a_million_jobs() {
        super::pages(Store::Redis, 1_000_000, 100_000);
    }
    #[test]
    #[ignore = "takes a minute"]
    fn sqlite_pages_of_a_million_jobs() {
        super::pages(Store::Sqlite, 1_000_000, 100_000);
    }
    #[test]
    #[ignore = "takes a minute"]
    fn ten_thousand_slow_clients() {
        super::slow_clients(10_000);
    }
}

#[expect(clippy::print_stdout, reason = "figures are for whoever runs the tests with --no-capture")]
fn figure(text: &str) {
    println!("figure: {text}");
}

/// The `share`th thousandth, in ms.
fn quantile(times: &mut [Duration], share: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * share / 1000).min(times.len() - 1);
    times[at].as_secs_f64() * 1000.0
}

fn fixture(queue: &str, more: &str) -> String {
    let program = built("fixture-handler").unwrap();
    format!(
        "[pools.default]\nqueues = [\"{queue}\"]\ncommand = [\"{}\", \"history\"]\n{more}\n",
        program.display()
    )
}

fn the_half_that_ends_is_answered_in_time(store: Store) {
    halves(store, 20);
}

/// Calls of 100 jobs each, three a second: half of the jobs take 5 ms, half hang until their timeout of 2 s.
fn halves(store: Store, calls: usize) {
    let rig = Rig::new(store, &fixture("default", "slots = 100\nmin_workers = 4\nmax_workers = 4"));
    let _up = rig.up();
    let job = |ms: u64| json!({"kind": "sleep", "payload": {"ms": ms}, "timeout": "2s", "max_attempts": 1});
    let jobs: Vec<Value> = (0..100).map(|n| job(if n % 2 == 0 { 5 } else { 60_000 })).collect();
    let jobs = Value::Array(jobs).to_string();
    let path = "/api/v1/queues/default/jobs?wait=1200ms";
    // So that all workers are there.
    rig.client.post(path, &json!([job(5), job(5)]).to_string()).data(207);
    let answers = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..calls {
            scope.spawn(|| {
                let begun = Mono::now();
                let results = Client::new(rig.client.port).post(path, &jobs).data(207);
                let took = Mono::now().since(begun);
                let all = results["results"].as_array().unwrap();
                let done = all.iter().filter(|result| result["job"]["state"] == "done").count();
                answers.lock().unwrap().push((took, done));
            });
            std::thread::sleep(Duration::from_millis(333));
        }
    });
    let answers = answers.into_inner().unwrap();
    let whole = answers.iter().filter(|(_, done)| *done == 50).count();
    let mut times: Vec<Duration> = answers.iter().map(|(took, _)| *took).collect();
    let (middle, late) = (quantile(&mut times, 500), quantile(&mut times, 990));
    figure(&format!(
        "{calls} calls of 100 jobs: p50 {middle:.0} ms, p99 {late:.0} ms; {whole} with the whole half"
    ));
    assert_eq!(whole, calls, "a half was not whole: {answers:?}");
    assert!(late < 3000.0, "p99 {late} ms");
}

fn pages_of_many_jobs_come_at_once(store: Store) {
    pages(store, 5_000, 500);
}

/// Every call that a page of the dashboard makes, with so many jobs that wait and so many dead letters.
fn pages(store: Store, waiting: usize, dead: usize) {
    let rig = Rig::new(store, &fixture("graves", "min_workers = 2\nmax_workers = 2"));
    let up = rig.up();
    let lines = |queue: &str, count: usize, line: &dyn Fn(usize) -> String| {
        for chunk in (0..count).collect::<Vec<_>>().chunks(100_000) {
            let text: String = chunk.iter().map(|n| line(*n) + "\n").collect();
            let done = rig.site.cli_with_input(&["enqueue", queue, "--ndjson", "-q"], &text).unwrap();
            assert_eq!(done.code, Some(0), "{}", done.stderr);
        }
    };
    lines("graves", dead, &|n| format!("{{\"id\":\"g{n}\",\"kind\":\"dead\",\"payload\":{n}}}"));
    lines("default", waiting, &|n| {
        let delay = if n % 2 == 0 { ",\"in\":\"1d\"" } else { "" };
        format!("{{\"id\":\"j{n}\",\"kind\":\"k{}\",\"payload\":{{\"n\":{n}}}{delay}}}", n % 20)
    });
    wait_for("the dead letters", LATE * 5, || {
        let queue = rig.client.get("/api/v1/queues/graves").data(200);
        if queue["dead"].as_u64() == Some(dead as u64) { Ok(()) } else { Err(queue.to_string()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", up.stderr()));
    let next = |path: &str| {
        let page = rig.client.get(path).data(200);
        page["next"].as_str().map(|cursor| format!("{path}&cursor={cursor}")).unwrap()
    };
    let ready = "/api/v1/queues/default/jobs?state=ready&limit=50";
    let mut paths: Vec<String> = [
        "/api/v1/queues",
        "/api/v1/queues/default",
        "/api/v1/fleet",
        "/api/v1/scaling",
        "/api/v1/series",
        "/api/v1/jobs?limit=50",
        "/api/v1/jobs?state=dead&limit=50",
        "/api/v1/jobs?queue=default&kind=k7&limit=50",
        "/api/v1/queues/default/jobs?state=scheduled&limit=50",
        "/api/v1/queues/default/jobs?kind=nothing&limit=50",
        "/api/v1/queues/default/jobs/j77",
        "/api/v1/queues/default/jobs/j77/explain",
        "/api/v1/queues/graves/jobs/g77",
        "/api/v1/dead?limit=50",
        "/api/v1/dead?by=error",
        "/metrics",
        "/",
    ]
    .map(str::to_owned)
    .to_vec();
    paths.extend([ready.to_owned(), next(ready), next("/api/v1/dead?limit=50")]);
    let mut slow = Vec::new();
    for path in paths {
        let mut times: Vec<Duration> = (0..40)
            .map(|_| {
                let begun = Mono::now();
                assert_eq!(rig.client.get(&path).status, 200, "{path}");
                Mono::now().since(begun)
            })
            .collect();
        let (middle, late) = (quantile(&mut times, 500), quantile(&mut times, 950));
        figure(&format!("p50 {middle:6.1} ms, p95 {late:6.1} ms  {path}"));
        if late > 100.0 {
            slow.push(path);
        }
    }
    figure(&format!("{waiting} jobs wait, {dead} are dead: slower than 100 ms: {slow:?}"));
    assert!(slow.len() <= 3, "{slow:?}");
}

/// Clients that send a byte a second and never come to an end, and one that knows what it wants.
fn slow_clients(count: usize) {
    let rig = Rig::new(Store::Sqlite, NOBODY);
    let up = rig.up();
    let process = http_process(&up);
    let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
    let (_, hard) = nix::sys::resource::getrlimit(limit).unwrap();
    nix::sys::resource::setrlimit(limit, hard, hard).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rig.client.port));
    let open = || {
        let mut stream = TcpStream::connect_timeout(&address, SOON).unwrap();
        stream.write_all(b"POST /timer HTTP/1.1\r\nhost: localhost\r\nx: ").unwrap();
        stream
    };
    let mut slow: Vec<TcpStream> = (0..count).map(|_| open()).collect();
    let over = AtomicBool::new(false);
    let measure = |client: &Client| {
        let mut times: Vec<Duration> = (0..1000)
            .map(|number| {
                let job = json!({"payload": number}).to_string();
                let begun = Mono::now();
                client.post("/api/v1/queues/q/jobs", &job).data(201);
                Mono::now().since(begun)
            })
            .collect();
        (quantile(&mut times, 500), quantile(&mut times, 990))
    };
    let (with, cut) = std::thread::scope(|scope| {
        let trickle = scope.spawn(|| {
            let mut cut = 0;
            while !over.load(Ordering::Relaxed) {
                for stream in &mut slow {
                    if stream.write_all(b"x").is_err() {
                        *stream = open();
                        cut += 1;
                    }
                }
                std::thread::sleep(Duration::from_millis(500));
            }
            cut
        });
        let with: Vec<_> = (0..10).map(|_| measure(&rig.client)).collect();
        let memory = process.pss().unwrap() / (1024 * 1024);
        figure(&format!("with {count} slow clients the process of the API has {memory} MiB"));
        over.store(true, Ordering::Relaxed);
        (with, trickle.join().unwrap())
    });
    drop(slow);
    let alone = measure(&Client::new(rig.client.port));
    figure(&format!(
        "p50 and p99 of enqueues in ms beside {count} slow clients: {with:.1?}; alone: {alone:.1?}; {cut} were cut off"
    ));
    assert!(with.iter().all(|(_, late)| *late < 1000.0));
    assert_eq!(http_process(&up), process, "it died of it");
}
