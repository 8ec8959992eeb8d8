//! The workers of a job system that many people have, as its package installs them.

use std::collections::BTreeSet;

use roundsman_tests::redis_server::RedisServer;
use roundsman_tests::spawn;
use roundsman_tests::time;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use rustix::process::Signal;

use super::{kept, python, redis, wait_kept, wait_log, why};
use crate::rig::{LATE, Rig, Store, figure, log};

/// The jobs of an application, and a program that enqueues some.
const APPLICATION: &str = r#"import sys, time

def deliver(number):
    time.sleep(0.1)

if __name__ == "__main__":
    import redis, rq
    queue = rq.Queue("mail", connection=redis.Redis(port=int(sys.argv[1])))
    for number in range(int(sys.argv[2])):
        queue.enqueue("app.deliver", number)
"#;

fn enqueue(rig: &Rig, queue: &RedisServer, count: u32) {
    let mut command = spawn::command(python());
    command.current_dir(rig.site.work()).args(["app.py", &queue.port().to_string(), &count.to_string()]);
    let done = spawn::output(command).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// As many of its jobs as the system itself says have been done.
fn wait_finished(rig: &Rig, up: &Up, queue: &RedisServer, counts: &[&str]) {
    wait_for("its jobs", LATE, || {
        let finished = queue.cli(&["ZCARD", "rq:finished:mail"]);
        if counts.contains(&&*finished) { Ok(()) } else { Err(finished) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}\n{}", why(rig), log(up)));
}

#[test]
fn a_worker_of_rq_is_replaced_and_scaled() {
    let queue = redis();
    let rig = Rig::new(Store::Sqlite, "");
    std::fs::write(rig.site.work().join("app.py"), APPLICATION).unwrap();
    let url = queue.url();
    rig.configure(&format!(
        "[pools.mail]\ncommand = [\"rq\", \"worker\", \"mail\", \"--url\", \"{url}\"]\n\
         demand = {{ type = \"redis-list\", url = \"{url}\", key = \"rq:queue:mail\" }}\nstop_signal = \"INT\"\n\
         liveness = \"stdout\"\nstall_after = \"4s\"\nmin_workers = 1\nmax_workers = 6\n[http]\nlisten = \"\"\n"
    ));
    let up = rig.up(1);
    let (_, first) = wait_kept(&up, "a worker", |it| it.len() == 1)[0];
    enqueue(&rig, &queue, 3);
    wait_finished(&rig, &up, &queue, &["3"]);

    let killed = time::mono_us();
    first.signal(Signal::KILL).unwrap();
    let (_, second) = wait_kept(&up, "another worker", |it| it.len() == 1 && it[0].1 != first)[0];
    figure(&format!("worker of RQ killed → another: {} ms", (time::mono_us() - killed) / 1_000));
    enqueue(&rig, &queue, 2);
    wait_finished(&rig, &up, &queue, &["5"]);

    second.signal(Signal::STOP).unwrap();
    let stopped = time::mono_us();
    // Its server may give it the first of them, which RQ knows nothing of then. There are enough to wait for as long as
    // it takes to see that it does nothing, also with others beside it.
    enqueue(&rig, &queue, 300);
    wait_kept(&up, "another worker", |it| it.iter().any(|(_, it)| *it != second) && !second.is_alive());
    figure(&format!("worker of RQ stopped → another: {} ms", (time::mono_us() - stopped) / 1_000));
    wait_log(&up, "not a line in 4s");
    wait_finished(&rig, &up, &queue, &["304", "305"]);

    let begun = time::mono_us();
    enqueue(&rig, &queue, 150);
    let busy: BTreeSet<u32> = wait_kept(&up, "at least three workers", |it| it.len() >= 3)
        .iter()
        .map(|(_, worker)| worker.pid)
        .collect();
    wait_finished(&rig, &up, &queue, &["454", "455"]);
    figure(&format!("150 jobs of RQ: {} ms, {} workers", (time::mono_us() - begun) / 1_000, busy.len()));
    assert_eq!(queue.cli(&["LLEN", "rq:queue:mail"]), "0");
    assert_eq!(queue.cli(&["ZCARD", "rq:failed:mail"]), "0", "{}", log(&up));

    assert!(!kept(&up).is_empty());
    up.signal(Signal::TERM).unwrap();
    assert_eq!(up.wait_exit(LATE).unwrap().code(), Some(0), "{}", log(&up));
    assert!(up.stderr().contains("Warm shut down requested"), "{}", log(&up));
}
