//! Messages taken in from a broker whose channels and whose node are killed: each becomes one job, and runs.
//!
//! The producer has a connection of its own, waits for confirms, and publishes again, with the same ids, what was not
//! confirmed: so messages come twice, too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::BasicProperties;
use roundsman_tests::amqp_client::Client;
use roundsman_tests::amqp_proxy::AmqpProxy;
use roundsman_tests::history::{Enqueue, Event, Fault, HistoryWriter, Role, digest};
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::wait::wait_for;

use crate::Failure;
use crate::audit::{audit, drained};
use crate::nemesis::Watcher;
use crate::options::{Options, Random};
use crate::report::Report;
use crate::stand::{Plan, QUEUE, Stand};

const JOBS: u64 = 20_000;
const CHANNEL_KILLS: u64 = 20;
const BROKER_KILLS: u64 = 2;
/// Between two kills of channels, on average.
const EVERY: Duration = Duration::from_millis(100);
const FROM: &str = "incoming";
/// Messages on their way to the broker at once.
const BATCH: u64 = 500;
const DRAIN: Duration = Duration::from_secs(180);
/// Whatever was unacked longer had been forgotten.
const UNACKED: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn run(options: &Options) -> Result<Report, Failure> {
    let jobs = options.jobs.unwrap_or(JOBS);
    let (channel_kills, broker_kills) =
        (options.channel_kills.unwrap_or(CHANNEL_KILLS), options.broker_kills.unwrap_or(BROKER_KILLS));
    let mut broker = RabbitServer::start()?;
    Client::connect(&broker.url())?.declare(FROM, &[])?;
    let proxy = AmqpProxy::start(broker.port())?;
    let settings =
        format!("[amqp]\nurl = {:?}\n[[amqp.in]]\nfrom = {FROM:?}\nqueue = {QUEUE:?}\n", proxy.url());
    let mut stand = Stand::new(options, &Plan { slots: 4, keep: jobs, settings, ..Plan::default() })?;
    let store = stand.store()?;
    let producer = HistoryWriter::create(&stand.history, "producer")?;
    stand.up()?;
    let watcher = Watcher::start(stand.history.clone())?;
    let url = broker.url();
    let rounds = broker_kills.max(1);
    let allowed = AtomicU64::new(0);
    let (published_again, killed) = std::thread::scope(|scope| -> Result<_, Failure> {
        let producing =
            scope.spawn(|| produce(&url, &producer, jobs, &allowed).map_err(|error| error.to_string()));
        let mut random = Random::new(options.seed);
        let mut killed = 0;
        for round in 0..rounds {
            allowed.store(jobs * (round + 1) / rounds, Ordering::Relaxed);
            let share = channel_kills * (round + 1) / rounds - channel_kills * round / rounds;
            for _ in 0..share {
                std::thread::sleep(random.exponential(options.every.unwrap_or(EVERY)));
                killed += kill_channels(&stand.writer, &proxy)?;
            }
            if round < broker_kills {
                std::thread::sleep(random.exponential(EVERY));
                fault(&stand.writer, Fault::BrokerKill, broker.process().map(|it| it.pid))?;
                broker.kill()?;
                broker.restart()?;
            }
        }
        let again = producing.join().map_err(|_panic| "the producer panicked")??;
        Ok((again, killed))
    })?;
    // The last kill may have been the last thing that happened.
    wait_for("the messages to be taken in", DRAIN, || {
        let client = Client::connect(&broker.url()).map_err(|error| error.to_string())?;
        match client.look(FROM).map_err(|error| error.to_string())? {
            (0, 1) if proxy.unacked() == 0 => Ok(()),
            (waiting, consumers) => {
                Err(format!("{waiting} wait, {} are unacked by {consumers}", proxy.unacked()))
            }
        }
    })?;
    let drained = stand.runtime.block_on(drained(&store, DRAIN))?;

    let mut report = Report::new("amqp");
    report.demand(drained, || format!("not drained {DRAIN:?} after the load"));
    let counted = audit(&stand, &store, drained, |_| Ok(()))?;
    let overview = stand.runtime.block_on(store.overview(&crate::stand::queue(QUEUE)?))?;
    stand.stop(&mut report)?;
    watcher.end()?;
    let (left, consumers) = Client::connect(&broker.url())?.look(FROM)?;
    report.figure("seed", options.seed);
    report.figure("messages", jobs);
    report.figure("channels killed / brokers", format!("{killed} / {broker_kills}"));
    report.figure("published again", published_again);
    report.figure("deliveries by the broker", proxy.delivered());
    report.figure("longest unacked", format!("{:?}", proxy.longest_unacked()));
    counted.tell(&mut report);
    report.demand(killed >= channel_kills, || format!("{killed} channels were killed, not {channel_kills}"));
    report.demand(proxy.longest_unacked() <= UNACKED, || {
        format!("a message was unacked for {:?}", proxy.longest_unacked())
    });
    report.demand((left, consumers) == (0, 0), || {
        format!("{left} messages came back, {consumers} consumers are left")
    });
    let ended = counted.states.get("done").copied().unwrap_or(0);
    report.demand(ended == jobs, || format!("{ended} of {jobs} messages are done jobs: some are lost"));
    report.demand(overview.enqueued_total == jobs, || {
        format!("{} jobs came to exist of {jobs} messages: some are doubled", overview.enqueued_total)
    });
    stand.judge(&mut report)?;
    report.print();
    Ok(report)
}

fn fault(writer: &HistoryWriter, fault: Fault, target_pid: Option<u32>) -> Result<(), Failure> {
    writer.record(Event::Fault { fault, target_pid, target_start: None, role: None::<Role> })?;
    Ok(())
}

/// Waits for a consumer, since a kill of nothing is none.
fn kill_channels(writer: &HistoryWriter, proxy: &AmqpProxy) -> Result<u64, Failure> {
    let killed = wait_for("a channel to kill", DRAIN, || match proxy.kill_channels() {
        Ok(0) => Err("no consumer".to_owned()),
        Ok(killed) => Ok(killed),
        Err(error) => Err(error.to_string()),
    })?;
    fault(writer, Fault::ChannelKill, None)?;
    Ok(u64::try_from(killed)?)
}

/// Publishes as fast as the broker confirms, up to what is allowed; answers how many were published more than once.
fn produce(url: &str, history: &HistoryWriter, jobs: u64, allowed: &AtomicU64) -> Result<u64, Failure> {
    let mut client = None;
    let mut again = 0;
    let mut next = 0;
    while next < jobs {
        let end = (next + BATCH).min(allowed.load(Ordering::Relaxed));
        if end <= next {
            std::thread::sleep(AGAIN);
            continue;
        }
        let payload = |n: u64| serde_json::json!({"n": n, "ms": 0}).to_string();
        let enqueue = |n: u64| Enqueue {
            queue: QUEUE.to_owned(),
            id: format!("job-{n}"),
            due_ms: None,
            digest: digest(payload(n).as_bytes()),
        };
        let message = |n: u64| {
            let properties = BasicProperties::default().with_message_id(format!("job-{n}").into());
            (payload(n).into_bytes(), properties)
        };
        loop {
            for n in next..end {
                history.record(Event::EnqInvoke(enqueue(n)))?;
            }
            if client.is_none() {
                client = Client::connect(url).ok();
            }
            let sent = match &client {
                Some(client) => client.publish_all(FROM, (next..end).map(message).collect()).is_ok(),
                None => false,
            };
            let known = |n| if sent { Event::EnqOk(enqueue(n)) } else { Event::EnqUnknown(enqueue(n)) };
            for n in next..end {
                history.record(known(n))?;
            }
            if sent {
                break;
            }
            again += end - next;
            client = None;
            std::thread::sleep(AGAIN);
        }
        next = end;
    }
    Ok(again)
}
