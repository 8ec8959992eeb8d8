//! What the law is to keep, on seeds that it was not tuned on.

use std::thread;

use roundsman_master::simulate::{Controller, Figures, KINDS, Lawful};

use crate::rivals::Kpa;
use crate::table::{SETTING, play};

/// Of one load: the most that it may come to.
struct Margin {
    name: &'static str,
    /// Worker-seconds over seconds of work.
    cost: f64,
    /// Worker-seconds over those of the best rule that never misses: KPA with windows of 20 s.
    beside_kpa: f64,
    decisions_a_minute: f64,
}

const fn margin(name: &'static str, cost: f64, beside_kpa: f64, decisions_a_minute: f64) -> Margin {
    Margin { name, cost, beside_kpa, decisions_a_minute }
}

/// Loads without a bound of their own have a loose one, so that it is noticed when they get much dearer.
const MARGINS: [Margin; 13] = [
    margin("step", 1.15, 0.8, 4.0),
    margin("ramp", 1.15, 0.8, 4.0),
    margin("diurnal", 1.15, 0.8, 4.0),
    margin("spikes", 1.80, 0.2, 4.0),
    margin("heavy", 1.20, 0.8, 4.0),
    margin("retry", 1.15, 0.8, 4.0),
    margin("crashloop", 1.15, 0.7, 4.0),
    margin("slowdep", 1.20, 0.9, 4.0),
    margin("satdep", 1.15, 1.0, 4.0),
    margin("hourly", 1.60, 0.40, 4.0),
    margin("deploy", 1.15, 0.8, 4.0),
    margin("sparse", 8.0, 0.2, 4.0),
    margin("longjobs", 1.30, 1.1, 4.0),
];
/// Loads that last, over which worker-seconds beside KPA are averaged.
const LASTING: [&str; 8] = ["step", "ramp", "diurnal", "heavy", "retry", "crashloop", "slowdep", "deploy"];
const BESIDE_KPA: f64 = 0.70;
/// What no number of workers would help.
const HOPELESS: &str = "satdep";

fn mean(of: &[Figures], what: impl Fn(&Figures) -> f64) -> f64 {
    of.iter().map(what).sum::<f64>() / of.len() as f64
}

fn plays(name: &'static str, seeds: &[u64], make: fn() -> Box<dyn Controller>) -> Vec<Figures> {
    let start = |seed: &u64| {
        let seed = *seed;
        thread::spawn(move || play(name, seed, &mut *make()))
    };
    let runs: Vec<_> = seeds.iter().map(start).collect();
    runs.into_iter().map(|run| run.join().unwrap()).collect()
}

#[test]
fn the_margins_are_kept_on_ten_seeds() {
    // Fewer scatter too much to be held to these limits.
    let seeds: Vec<u64> = (101..=110).collect();
    let (mut missed, mut beside) = (0.0, 0.0);
    let mut broken = Vec::new();
    assert_eq!(MARGINS.map(|margin| margin.name), KINDS.map(|kind| kind.name));
    for margin in &MARGINS {
        let name = margin.name;
        let law = plays(name, &seeds, || Box::new(Lawful::default()));
        let kpa = plays(name, &seeds, || Box::new(Kpa::new(0.9, 20.0, 3.0)));
        let ratio =
            (mean(&law, |law| law.worker_seconds.ln()) - mean(&kpa, |kpa| kpa.worker_seconds.ln())).exp();
        let cost = mean(&law, |law| law.cost);
        let decisions = mean(&law, |law| law.decisions as f64 * 60.0 / law.lasted);
        let reversals: usize = law.iter().map(|law| law.reversals).sum();
        let p99 = mean(&law, |law| law.wait_p99);
        let share = mean(&law, |law| law.missed);
        println!(
            "{name:9} missed {:6.3} %, p99 {p99:5.2} s, cost {cost:5.3}, beside KPA {ratio:5.3}, decisions a minute \
             {decisions:4.2}, reversals {reversals}",
            share * 100.0
        );
        if name != HOPELESS {
            missed += share / (MARGINS.len() - 1) as f64;
            if share > mean(&kpa, |kpa| kpa.missed) + 0.005 {
                broken.push(format!("{name}: misses {share} with KPA {kpa:?}"));
            }
            // Long jobs come close to it.
            if p99 > 0.8 * SETTING.target_wait + 0.02 {
                broken.push(format!("{name}: p99 {p99} s"));
            }
        }
        if LASTING.contains(&name) {
            beside += ratio.ln() / LASTING.len() as f64;
        }
        if cost > margin.cost {
            broken.push(format!("{name}: cost {cost} over {}", margin.cost));
        }
        if ratio > margin.beside_kpa {
            broken.push(format!("{name}: {ratio} of the worker-seconds of KPA, over {}", margin.beside_kpa));
        }
        if decisions > margin.decisions_a_minute {
            broken.push(format!("{name}: {decisions} decisions a minute over {}", margin.decisions_a_minute));
        }
        if reversals > 0 {
            broken.push(format!("{name}: {reversals} decisions taken back within ten seconds"));
        }
    }
    let beside = beside.exp();
    println!(
        "missed {:.4} % over all but {HOPELESS}; beside KPA {beside:.3} over {LASTING:?}",
        missed * 100.0
    );
    if missed > 0.002 {
        broken.push(format!("{missed} of all jobs miss the objective"));
    }
    if beside > BESIDE_KPA {
        broken.push(format!("{beside} of the worker-seconds of KPA over {LASTING:?}"));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
