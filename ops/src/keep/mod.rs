//! A keeper: one small process around one worker that knows nothing of Roundsman. Towards the master it is a worker as
//! others are: it says hello, beats, and leaves when it is told to, with its worker's exit.
//!
//! ```text
//! vigil      what is done about the worker, and when                (pure)
//! program    the worker's process, its output and its whole tree
//! ```
//! Whatever ends a keeper ends its worker: told to stop, it gives the worker its signal and its grace, then kills the whole
//! tree; left alone by its master, it does the same; and where the keeper itself is killed, the kernel kills the worker.

mod program;
mod vigil;

use std::cell::Cell;
use std::time::Duration;

use roundsman_shared::assignment::{Assignment, PartSpec};
use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::foreign::KeepSpec;
use roundsman_shared::pipe::Incoming;
use roundsman_shared::protocol::{BEAT_MS, Beat, Doing, FromChild, StopMode, ToChild};
use tokio::signal::unix::{SignalKind, signal};

pub use self::program::{SHIM, become_worker};

use self::program::{End, Program};
use self::vigil::{Action, Event, Vigil};
use crate::part::{self, Part};

const LOOK: Duration = Duration::from_millis(100);

/// Runs the role; answers the exit code. Does not return where the worker died by a signal: the keeper dies by the same.
pub(crate) fn run() -> u8 {
    let end = Cell::new(None);
    let code = part::run(async |part: &mut Part, assignment: Assignment| serve(part, assignment, &end).await);
    if let Some(End::Signal(signal)) = end.get() {
        program::die_by(signal);
    }
    code
}

async fn serve(part: &mut Part, assignment: Assignment, end: &Cell<Option<End>>) -> (u8, String) {
    let Some(PartSpec::Keep(spec)) = assignment.part else {
        return (exit::CONFIG, "it was not told what to keep".to_owned());
    };
    let program = match Program::start(&spec) {
        Ok(program) => program,
        Err(error) => return (exit::NO_PROGRAM, format!("its worker cannot be started: {error}")),
    };
    let vigil = watch(part, &spec, &program).await;
    // Nothing of the tree outlives this.
    let ended = program.finish();
    if vigil.is_told_to_stop() {
        return (exit::OK, "told to stop".to_owned());
    }
    if let Some(why) = vigil.stalled() {
        return (exit::FAILED, why.to_owned());
    }
    end.set(Some(ended));
    match ended {
        End::Code(code) => (code, format!("its worker ended with {code}")),
        End::Signal(signal) => {
            (128_u8.saturating_add(signal as u8), format!("its worker died by signal {signal}"))
        }
    }
}

/// Until the worker has ended.
async fn watch(part: &mut Part, spec: &KeepSpec, program: &Program) -> Vigil {
    let mut vigil = Vigil::new(Mono::now(), spec.stall_after, spec.grace);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut beaten: Option<(Mono, Doing)> = None;
    let mut open = true;
    // Whoever ends all processes of a container means its worker, too; Ctrl-C is for the supervisor.
    let mut terminate = signal(SignalKind::terminate()).ok();
    let mut interrupt = signal(SignalKind::interrupt()).ok();
    loop {
        let event = tokio::select! {
            heard = part.hear(), if open => match heard {
                Incoming::Message(ToChild::Demand { waiting }) => Event::Demand { waiting },
                Incoming::Message(ToChild::Stop { mode: StopMode::Drain, by_ms, .. }) => {
                    Event::Stop { by: Duration::from_millis(by_ms) }
                }
                Incoming::Message(ToChild::Stop { mode: StopMode::Release, .. }) => {
                    Event::Stop { by: Duration::ZERO }
                }
                Incoming::Closed => {
                    open = false;
                    Event::Stop { by: spec.grace }
                }
                Incoming::Message(_) | Incoming::Malformed(_) => continue,
            },
            Some(()) = told(&mut terminate) => Event::Stop { by: spec.grace },
            Some(()) = told(&mut interrupt) => continue,
            _ = look.tick() => {
                if program.has_ended() {
                    return vigil;
                }
                Event::Time { last_line: program.last_line() }
            }
        };
        let now = Mono::now();
        for action in vigil.step(now, event) {
            match action {
                Action::Ready => part.ready(),
                Action::Stop => program.stop(spec.stop_signal),
                Action::Kill => program.kill(),
                Action::Warn { code, message } => {
                    part.say(FromChild::Warn { code: code.to_owned(), message });
                }
            }
        }
        let doing = vigil.doing();
        if beaten.is_none_or(|(at, said)| said != doing || now.since(at) >= Duration::from_millis(BEAT_MS)) {
            beaten = Some((now, doing));
            // One that is told to leave has something to finish, for all that is known.
            let running = u32::from(doing == Doing::Draining);
            let rss_kb = program.rss_kb();
            part.say(FromChild::Hb(Beat { doing, running, rss_kb, store_ok: true, ..Beat::default() }));
            program.reap_orphans();
        }
    }
}

async fn told(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}
