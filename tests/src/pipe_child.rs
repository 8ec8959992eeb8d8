//! The child's end of the pipe protocol, small enough to misbehave with: for fixture programs.
//!
//! Unlike a real worker it leaves its pipes on descriptors 0 and 1, so that what it starts can hold them.

use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use roundsman_shared::launch;
use roundsman_shared::protocol::{BEAT_MS, Beat, Doing, FromChild, ToChild, decode, encode};

use crate::spawn::variable;

/// What a child says of itself; its beats repeat it.
#[derive(Debug, Clone)]
pub struct Voice {
    beat: Arc<Mutex<Beat>>,
}

impl Voice {
    /// Says `hello`. From now on it can beat.
    #[must_use]
    pub fn hello() -> Self {
        let voice = Self { beat: Arc::new(Mutex::new(Beat { store_ok: true, ..Beat::default() })) };
        let nonce = variable(launch::NONCE).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (v, pid, build) = ([1, 1], std::process::id(), "fixture 0".to_owned());
        voice.say(&FromChild::Hello { v, pid, nonce, build });
        voice
    }

    /// One line, at once.
    pub fn say(&self, message: &FromChild) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(encode(message).as_bytes());
        let _ = out.flush();
    }

    /// Changes what is true, and says it.
    pub fn now(&self, change: impl FnOnce(&mut Beat)) {
        let beat = {
            let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut beat);
            beat.clone()
        };
        self.say(&FromChild::Hb(beat));
    }

    /// Is `ready`, and beats every second as long as the process lives.
    pub fn start(&self) {
        self.say(&FromChild::Ready);
        self.now(|beat| beat.doing = Doing::Idle);
        let voice = self.clone();
        std::thread::spawn(move || {
            let beat_s = i64::try_from(BEAT_MS).unwrap_or(1000);
            loop {
                std::thread::sleep(Duration::from_millis(BEAT_MS));
                voice.now(|beat| {
                    beat.tick += 1;
                    for job in &mut beat.jobs {
                        job.ran += BEAT_MS;
                        job.left -= beat_s;
                    }
                });
            }
        });
    }
}

/// What the parent says; ends with the pipe.
#[must_use]
pub fn orders() -> mpsc::Receiver<ToChild> {
    let (sender, receiver) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Ok(Some(message)) = decode::<ToChild>(&line)
                && sender.send(message).is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// Waits for the `welcome`.
#[must_use]
pub fn welcome(orders: &mpsc::Receiver<ToChild>) -> Option<serde_json::Value> {
    orders.iter().find_map(|order| match order {
        ToChild::Welcome { work, .. } => Some(work),
        _ => None,
    })
}

/// Does nothing until it is told to stop.
#[must_use]
pub fn idle() -> ExitCode {
    let voice = Voice::hello();
    let orders = orders();
    if welcome(&orders).is_some() {
        voice.start();
        let _ = orders.iter().find(|order| matches!(order, ToChild::Stop { .. }));
        voice.say(&FromChild::Bye { why: "stopped".into(), code: 0 });
    }
    ExitCode::SUCCESS
}
