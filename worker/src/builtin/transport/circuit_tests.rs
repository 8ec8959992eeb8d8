//! Circuits and bulkheads under a clock and dice of the test.

use super::*;

fn at(millis: u64) -> Mono {
    Mono::from_nanos((1_000_000 + millis) * 1_000_000)
}

fn to(host: &str) -> Destination {
    Destination { scheme: "http".into(), host: host.into(), port: 80 }
}

fn ill() -> Verdict {
    Verdict::Ill("refused".into())
}

fn go(circuits: &mut Circuits, millis: u64, host: &str) -> Pass {
    match circuits.admit(at(millis), &to(host), 0, 0.5) {
        Admission::Go(pass) => pass,
        other => panic!("{host} at {millis}: {other:?}"),
    }
}

fn held(circuits: &mut Circuits, millis: u64, host: &str) -> u64 {
    match circuits.admit(at(millis), &to(host), 0, 0.5) {
        Admission::Hold { after, .. } => u64::try_from(after.as_millis()).unwrap(),
        other => panic!("{host} at {millis}: {other:?}"),
    }
}

/// As many as go at this moment.
fn all(circuits: &mut Circuits, millis: u64, host: &str) -> Vec<Pass> {
    let admit = || match circuits.admit(at(millis), &to(host), 0, 0.5) {
        Admission::Go(pass) => Some(pass),
        Admission::Wait | Admission::Hold { .. } => None,
    };
    std::iter::from_fn(admit).take(1000).collect()
}

fn end(circuits: &mut Circuits, millis: u64, passes: &[Pass], verdict: &Verdict) {
    for pass in passes {
        circuits.settle(at(millis), pass, verdict.clone(), 0.5);
    }
}

/// Opens it at 0 ms.
fn opened() -> Circuits {
    let mut circuits = Circuits::new(32, true);
    for _ in 0..OPEN_AFTER {
        let pass = go(&mut circuits, 0, "a");
        end(&mut circuits, 0, &[pass], &ill());
    }
    circuits
}

#[test]
fn a_story_of_one_circuit() {
    #[derive(Debug)]
    enum Step {
        /// It goes, and ends with this.
        Goes(Verdict),
        /// It is held for so many ms.
        Held(u64),
    }
    use Step::{Goes, Held};
    // The circuit's time is 0.75 of 1 s, 2 s and so on, with a `random` of 0.5.
    let story = [
        (0, Goes(ill())),
        (1, Goes(Verdict::Well)),
        (2, Goes(ill())),
        (3, Goes(ill())),
        (4, Goes(Verdict::Unknown)),
        (5, Goes(ill())),
        (6, Goes(ill())),
        (7, Goes(ill())),
        (8, Held(749)),
        (9, Held(791)),
        (700, Held(100)),
        (757, Goes(ill())),
        (758, Held(1499)),
        (2256, Held(144)),
        (2257, Goes(Verdict::Unknown)),
        (2258, Goes(Verdict::Well)),
        (2259, Goes(ill())),
        (2260, Goes(Verdict::Well)),
    ];
    let mut circuits = Circuits::new(32, true);
    for (millis, step) in story {
        match step {
            Goes(verdict) => {
                let pass = go(&mut circuits, millis, "a");
                end(&mut circuits, millis, &[pass], &verdict);
            }
            Held(span) => assert_eq!(held(&mut circuits, millis, "a"), span, "at {millis}"),
        }
    }
}

#[test]
fn one_job_probes_and_the_others_wait_for_its_end() {
    let mut circuits = opened();
    let probe = go(&mut circuits, 750, "a");
    assert_eq!(held(&mut circuits, 751, "a"), 250);
    assert_eq!(held(&mut circuits, 752, "a"), 348);
    end(&mut circuits, 800, &[probe], &Verdict::Well);
    go(&mut circuits, 801, "a");
}

#[test]
fn what_was_under_way_before_counts_only_when_it_is_good() {
    let mut circuits = Circuits::new(32, true);
    let before = all(&mut circuits, 0, "a");
    assert_eq!(before.len(), 8);
    end(&mut circuits, 10, &before[..5], &ill());
    assert_eq!(held(&mut circuits, 11, "a"), 749);
    end(&mut circuits, 20, &before[5..7], &ill());
    assert_eq!(held(&mut circuits, 21, "a"), 779, "the second in the row, and no later moment for the probe");
    end(&mut circuits, 30, &before[7..], &Verdict::Well);
    go(&mut circuits, 31, "a");
}

#[test]
fn the_longer_it_is_open_the_less_is_looked_at() {
    let mut circuits = opened();
    let mut now = 0;
    for apart in [10, 20, 40, 80, 160, 300, 300] {
        let mut moments: Vec<u64> = (0..100).map(|_| held(&mut circuits, now, "a")).collect();
        let (first, last) = (moments[0], moments[99]);
        assert!((99 * apart..=109 * apart).contains(&(last - first)), "{apart}: {first} to {last}");
        moments.dedup();
        assert!(moments.len() <= 12, "{moments:?}");
        now += first;
        let pass = go(&mut circuits, now, "a");
        now += 1_000;
        end(&mut circuits, now, &[pass], &ill());
    }
}

#[test]
fn a_circuit_opens_longer_and_longer_up_to_a_minute() {
    let mut circuits = opened();
    let mut now = 0;
    let mut spans = Vec::new();
    for _ in 0..9 {
        let span = held(&mut circuits, now, "a");
        spans.push(span);
        now += span;
        let pass = go(&mut circuits, now, "a");
        end(&mut circuits, now, &[pass], &ill());
    }
    assert_eq!(spans, [750, 1500, 3000, 6000, 12_000, 22_500, 22_500, 22_500, 22_500]);
}

#[test]
fn a_hundred_thousand_held_jobs_come_back_spread_out() {
    let mut circuits = opened();
    let mut moments: Vec<u64> = Vec::new();
    for n in 0..100_000_u32 {
        let random = f64::from(n % 1000) / 1000.0;
        match circuits.admit(at(1), &to("a"), 0, random) {
            Admission::Hold { after, .. } => moments.push(u64::try_from(after.as_millis()).unwrap()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(moments[0], 749, "the first comes for the probe");
    assert!(moments.iter().all(|moment| (749..=749 + 300_200).contains(moment)));
    let busiest = (0..302).map(|s| moments.iter().filter(|at| **at / 1000 == s).count()).max().unwrap();
    assert!(busiest <= 550, "{busiest} in one second");
    let last = moments.iter().max().unwrap() / 1000;
    assert!((200..=300).contains(&last), "the last after {last} s");
}

#[test]
fn shares_of_the_slots() {
    // New: a quarter. Brisk: three quarters. In doubt: half.
    let mut circuits = Circuits::new(32, true);
    let first = all(&mut circuits, 0, "a");
    assert_eq!(first.len(), 8);
    end(&mut circuits, 5, &first, &Verdict::Well);
    let brisk = all(&mut circuits, 6, "a");
    assert_eq!(brisk.len(), 24);
    assert_eq!(circuits.admit(at(7), &to("a"), 0, 0.5), Admission::Wait);
    assert_eq!(circuits.admit(at(7), &to("a"), 7, 0.5), Admission::Wait);
    assert!(matches!(circuits.admit(at(7), &to("a"), 8, 0.5), Admission::Hold { .. }));
    // It hangs: those who wait are held, and it has nothing more until half is free.
    assert!(matches!(circuits.admit(at(1006), &to("a"), 0, 0.5), Admission::Hold { .. }));
    end(&mut circuits, 1010, &brisk[..8], &Verdict::Well);
    assert!(matches!(circuits.admit(at(1011), &to("a"), 0, 0.5), Admission::Hold { .. }));
    end(&mut circuits, 1012, &brisk[8..12], &Verdict::Well);
    assert_eq!(all(&mut circuits, 1013, "a").len(), 4);
}

#[test]
fn whoever_hangs_the_others_find_room() {
    let mut circuits = Circuits::new(32, true);
    let good = all(&mut circuits, 0, "good");
    end(&mut circuits, 1, &good, &Verdict::Well);
    let mut hanging = 0;
    for second in 0..5 {
        for host in ["h1", "h2", "h3", "h4", "h5"] {
            hanging += all(&mut circuits, second * 1000 + 10, host).len();
        }
    }
    assert!(hanging <= 28, "{hanging}");
    assert_eq!(all(&mut circuits, 5000, "good").len(), 24);
    // A thousand hosts that hang at once, and never answered before.
    let mut circuits = Circuits::new(32, true);
    let good = all(&mut circuits, 0, "good");
    end(&mut circuits, 1, &good, &Verdict::Well);
    let hanging: usize = (0..1000).map(|n| all(&mut circuits, 2, &format!("h{n}")).len()).sum();
    assert!(hanging <= 28, "{hanging}");
}

#[test]
fn a_new_destination_finds_room_beside_one_that_hangs() {
    let mut circuits = Circuits::new(32, true);
    let hanging = all(&mut circuits, 0, "h").len() + all(&mut circuits, 2000, "h").len();
    assert_eq!(hanging, 16);
    assert_eq!(all(&mut circuits, 2001, "new").len(), 8);
}

#[test]
fn praise_and_slowness() {
    let mut circuits = Circuits::new(32, true);
    let pass = go(&mut circuits, 0, "a");
    end(&mut circuits, 10, &[pass], &Verdict::Well);
    // Forgotten after a minute: as new.
    assert_eq!(all(&mut circuits, 60_011, "a").len(), 8);
    let mut circuits = Circuits::new(32, true);
    let pass = go(&mut circuits, 0, "slow");
    end(&mut circuits, 3000, &[pass], &Verdict::Well);
    assert_eq!(all(&mut circuits, 3001, "slow").len(), 16);
}

#[test]
fn one_destination_alone_may_have_every_slot() {
    let mut circuits = Circuits::new(32, false);
    assert_eq!(all(&mut circuits, 0, "a").len(), 1000);
    let mut circuits = Circuits::new(1, true);
    assert_eq!(all(&mut circuits, 0, "a").len(), 1);
}

#[test]
fn what_is_remembered_is_bounded_and_open_circuits_are_kept() {
    let mut circuits = opened();
    for n in 0..5 * MAX_KNOWN {
        let pass = go(&mut circuits, 1 + n as u64 / 100, &format!("h{n}"));
        end(&mut circuits, 1 + n as u64 / 100, &[pass], &Verdict::Well);
    }
    assert_eq!(circuits.known.len(), MAX_KNOWN);
    assert!(held(&mut circuits, 100, "a") > 0);
}

#[test]
fn one_server_has_one_name() {
    for (url, name) in [
        ("https://Hooks.Example.com./a?b#c", "https://hooks.example.com:443"),
        ("http://user:pass@0x7f.1:8080/", "http://127.0.0.1:8080"),
        ("redis://:secret@Host/3", "redis://host:6379"),
        ("amqp://u:p@[::1]/%2f", "amqp://[::1]:5672"),
        ("amqps://h", "amqps://h:5671"),
        ("redis+unix:///run/Redis.sock?db=1", "redis+unix:/run/Redis.sock"),
    ] {
        assert_eq!(Destination::of(&Url::parse(url).unwrap()).to_string(), name);
    }
}
