//! Every load against every rule, as a table; and what the law must keep.

use roundsman_master::simulate::{Controller, Figures, KINDS, Lawful, Setting, Trace, run};

use crate::rivals::{All, Horizon, Hpa, Kpa, Slope};

/// One job a worker at a time, as the loads were thought out.
pub(crate) const SETTING: Setting =
    Setting { target_wait: 5.0, min_workers: 0, max_workers: 64, slots: 1, boot: 1.0, cores: 16 };

pub(crate) fn play(name: &str, seed: u64, controller: &mut dyn Controller) -> Figures {
    run(&Trace::named(name, seed, 1.0).unwrap(), &SETTING, controller, seed).0
}

/// On loads that it was not tuned on, it lets no more jobs wait too long than the best of the rules that people use.
#[test]
fn the_law_keeps_what_the_best_rival_keeps() {
    for name in KINDS.map(|kind| kind.name) {
        let law = play(name, 5, &mut Lawful::default());
        let rivals = [play(name, 5, &mut Kpa::new(0.9, 60.0, 6.0)), play(name, 5, &mut Horizon { shift: 5 })];
        let best = rivals.iter().map(|figures| figures.missed).fold(1.0, f64::min);
        assert!(law.missed <= best + 0.005, "{name}: {law:?}\n{rivals:?}");
        assert!(rivals.iter().all(|rival| rival.jobs >= law.jobs * 9 / 10), "{name}: the same load for all");
    }
}

/// The same seed gives the same course, and another seed another.
#[test]
fn a_course_is_made_of_its_seed() {
    for name in ["retry", "crashloop", "deploy"] {
        let course = |seed| play(name, seed, &mut Lawful::default());
        assert_eq!(course(3), course(3), "{name}");
        assert_ne!(course(3), course(4), "{name}");
    }
}

#[test]
#[ignore = "takes a minute; prints the table"]
fn table() {
    type Make = fn() -> Box<dyn Controller>;
    let rules: [(&str, Make); 8] = [
        ("law", || Box::new(Lawful::default())),
        ("KPA 0.9, 60 s", || Box::new(Kpa::new(0.9, 60.0, 6.0))),
        ("KPA 0.9, 20 s", || Box::new(Kpa::new(0.9, 20.0, 3.0))),
        ("Horizon 1", || Box::new(Horizon { shift: 1 })),
        ("Horizon 5", || Box::new(Horizon { shift: 5 })),
        ("HPA 5", || Box::new(Hpa::new(5.0))),
        ("slope 10", || Box::new(Slope { jobs_a_worker: 10.0, before: 0.0 })),
        ("all", || Box::new(All)),
    ];
    println!("miss % / p99 s / cost / decisions a minute / reversals");
    for name in KINDS.map(|kind| kind.name) {
        print!("| {name:9} ");
        for (_, make) in rules {
            let figures = play(name, 101, &mut *make());
            print!(
                "| {:5.2} {:6.1} {:5.2} {:4.1} {:3} ",
                figures.missed * 100.0,
                figures.wait_p99,
                figures.cost,
                figures.decisions as f64 * 60.0 / figures.lasted,
                figures.reversals
            );
        }
        println!("|");
    }
    for (name, _) in rules {
        print!("{name}; ");
    }
    println!();
}
