//! How it stands with a queue that is taken in, for whoever asks the fleet.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Tally {
    /// `FROM → QUEUE`
    name: String,
    taken: AtomicU64,
    refused: AtomicU64,
    pub(super) store_ok: AtomicBool,
    now: Mutex<String>,
}

impl Tally {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            store_ok: AtomicBool::new(true),
            now: Mutex::new("connecting".to_owned()),
        }
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, taken: usize, refused: usize) {
        self.taken.fetch_add(u64::try_from(taken).unwrap_or(0), Ordering::Relaxed);
        self.refused.fetch_add(u64::try_from(refused).unwrap_or(0), Ordering::Relaxed);
    }

    /// Notes what it is about; answers whether that is news.
    pub(super) fn set(&self, now: &str) -> bool {
        let Ok(mut held) = self.now.lock() else { return false };
        let news = *held != now;
        if news {
            now.clone_into(&mut held);
        }
        news
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        let now = self.now.lock().map(|now| now.clone()).unwrap_or_default();
        let (taken, refused) = (self.taken(), self.refused.load(Ordering::Relaxed));
        let refused = if refused > 0 { format!(", {refused} refused") } else { String::new() };
        format!("{}: {now}, {taken} taken{refused}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_in_words() {
        let tally = Tally::new("jobs → default".into());
        assert_eq!(tally.words(), "jobs → default: connecting, 0 taken");
        assert!(tally.set("taking in") && !tally.set("taking in"));
        tally.add(3, 1);
        assert_eq!(tally.words(), "jobs → default: taking in, 3 taken, 1 refused");
    }
}
