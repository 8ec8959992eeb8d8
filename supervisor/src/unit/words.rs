//! How a unit stands, in words: for the service manager, and for the log.

use roundsman_shared::clock::Mono;
use roundsman_shared::protocol::Beat;

use super::charge::{Charge, Phase};
use super::roll::{Roll, Stage};
use super::{Master, Unit, WINDOW, Wish};

impl Unit {
    /// How things stand, in a line for the service manager. Nothing in it changes at every beat, but while draining.
    pub(super) fn status(&self, now: Mono) -> String {
        let charge = if let Master::Held(charge) = &self.master { Some(charge) } else { None };
        let beside = self.roll.as_ref().and_then(|roll| roll.heir.as_ref());
        let all = charge.into_iter().chain(beside).chain(&self.retired);
        let running: u32 = all.filter_map(|charge| charge.beat.as_ref()).map(|beat| beat.running).sum();
        let jobs = if running == 1 { "1 job runs".to_owned() } else { format!("{running} jobs run") };
        match (self.wish, &self.master) {
            (Wish::Leave { .. }, _) => "stopping at once".to_owned(),
            (Wish::Drain { grace, .. }, Master::Gone) => format!(
                "draining: what an earlier master left behind may go on for {} s",
                grace.since(now).as_secs()
            ),
            (Wish::Drain { grace, .. }, _) => {
                format!("draining: {jobs}, and may for {} s more", grace.since(now).as_secs())
            }
            (Wish::Serve, Master::Held(Charge { pid, phase: Phase::Ready { .. }, beat, .. })) => {
                let does = match &self.roll {
                    Some(Roll { stage: Stage::Undoing { .. }, .. }) => {
                        "serving, going back to the old program"
                    }
                    Some(Roll { stage: Stage::Watching { .. }, .. }) => "serving, watching a new program",
                    Some(_) => "serving, rolling onto a new program",
                    None if self.quiet => "quiet, takes no new jobs",
                    None => "serving",
                };
                let store = match beat {
                    Some(beat) if !beat.store_ok && self.ever_served => "; the store does not answer",
                    Some(beat) if !beat.store_ok => "; the store has not answered yet",
                    Some(_) | None => "",
                };
                let refused = self.refused.map(|why| format!("; the last reload was refused: {why}"));
                format!("{does}, master {pid}{store}{}", refused.unwrap_or_default())
            }
            (Wish::Serve, _) => "starting a master".to_owned(),
        }
    }

    pub(super) fn describe(&self, now: Mono) -> String {
        let ago = |moment: Mono| format!("{} ms ago", now.since(moment).as_millis());
        let master = match &self.master {
            Master::Due { .. } | Master::Starting => "none, about to be started".to_owned(),
            Master::Held(charge) if charge.is_condemned() => format!("{} being killed", charge.pid),
            Master::Held(charge) => {
                format!("{} {}, last line {}", charge.pid, charge.describe(), ago(charge.heard))
            }
            Master::Gone | Master::Finished => "gone".to_owned(),
        };
        let heir = self.roll.as_ref().and_then(|roll| roll.heir.as_ref());
        let others: String = heir
            .into_iter()
            .map(|heir| format!(", heir {} {}", heir.pid, heir.describe()))
            .chain(self.retired.iter().map(|charge| format!(", retired {}", charge.pid)))
            .collect();
        let wish = match self.wish {
            Wish::Serve if self.quiet => "quiet".to_owned(),
            Wish::Serve => "serving".to_owned(),
            Wish::Drain { asked, .. } => format!("draining, asked {}", ago(asked)),
            Wish::Leave { .. } => "leaving now".to_owned(),
        };
        let failures = self.failures.iter().filter(|at| now.since(**at) < WINDOW).count();
        let beat = if let Master::Held(charge) = &self.master { charge.beat.as_ref() } else { None };
        let beat = beat.map_or_else(
            || "none".to_owned(),
            |beat| {
                let Beat { doing, claimed, done, failed, running, store_ok, .. } = beat;
                let doing = doing.as_str();
                format!(
                    "{doing}, {claimed} claimed, {done} done, {failed} failed, {running} running, store {}",
                    if *store_ok { "well" } else { "not answering" }
                )
            },
        );
        format!("{wish}; master {master}{others}; last beat: {beat}; {failures} failures within a minute")
    }
}
