use roundsman_shared::{clock::*, job::*, names::*, store::*};
use std::time::Duration;
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let url = std::env::args().nth(1).unwrap();
    let n: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let batch: usize = std::env::args().nth(3).unwrap().parse().unwrap();
    let place = if let Some(p) = url.strip_prefix("sqlite:") { StorePlace::Sqlite(p.into()) } else { StorePlace::Redis(url) };
    let store = Store::open(&StoreConfig { place, namespace: Namespace::new("roundsman").unwrap(), lease: Duration::from_secs(15) }).await.unwrap();
    let q = QueueName::new("bench").unwrap();
    let payload = format!("{{\"payload\":\"{}\"}}", "x".repeat(98));
    let limits = spec::Limits { max_payload: 100000, now: Wall::now() };
    let t = Mono::now();
    let mut made = 0;
    while made < n {
        let jobs: Vec<NewJob> = (0..batch).map(|_| spec::parse(&payload, &limits).unwrap()).collect();
        store.enqueue(&q, &jobs, 100_000_000).await.unwrap();
        made += batch;
    }
    let d = Mono::now().since(t).as_secs_f64();
    println!("enqueue {:.0}/s", made as f64 / d);
    let w = WorkerId::new("h:p:1:a").unwrap();
    let policy = Policy::default();
    let t = Mono::now();
    let mut done = 0;
    let mut pending: Option<SettleRequest> = None;
    loop {
        let pull = PullRequest { queue: q.clone(), worker: w.clone(), max: batch, lease: Duration::from_secs(15), latest: None };
        let (answers, pulled) = store.exchange(pending.as_ref(), Some(&pull)).await.unwrap();
        done += answers.iter().filter(|a| **a == Answer::Ok).count();
        let pulled = pulled.unwrap();
        if pulled.deliveries.is_empty() && pending.is_none() { break; }
        let run = Run { worker: w.clone(), started: Some(pulled.now.as_millis()), ended: pulled.now.as_millis(), stderr_tail: None };
        let settlements: Vec<Settlement> = pulled.deliveries.iter().map(|d| {
            let spec = d.record.decode().unwrap();
            settle(d, &spec, Outcome::Done { result: None, follow_ups: vec![] }, &run, &policy, 0.5)
        }).collect();
        pending = if settlements.is_empty() { None } else { Some(SettleRequest { queue: q.clone(), worker: w.clone(), settlements, retention: (&policy).into(), only_if_lapsed: false }) };
    }
    let d = Mono::now().since(t).as_secs_f64();
    println!("drain {:.0}/s ({done})", done as f64 / d);
    println!("{:?}", store.overview(&q).await.unwrap());
}
