//! Connections that many jobs share at once, one for each server: made when first needed, made again when found dead, and
//! let go when too many others were wanted since.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::Mutex;

/// Servers whose connections are kept.
const MAX_SERVERS: usize = 32;

/// The place of one connection. Whoever makes it holds the lock meanwhile, so that only one is made.
pub(super) type Place<T> = Rc<Mutex<Option<T>>>;

/// By URL, the one that was wanted last at the end.
pub(super) struct Lasting<T>(RefCell<Vec<(String, Place<T>)>>);

impl<T> Default for Lasting<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Lasting<T> {
    pub(super) fn of(&self, url: &str) -> Place<T> {
        let mut all = self.0.borrow_mut();
        let found = all.iter().position(|(of, _)| of == url).map(|at| all.remove(at));
        let entry = found.unwrap_or_else(|| (url.to_owned(), Place::default()));
        let place = entry.1.clone();
        if all.len() >= MAX_SERVERS {
            all.remove(0);
        }
        all.push(entry);
        place
    }

    /// It did not answer: the next job makes a new one.
    pub(super) fn forget(&self, url: &str) {
        self.0.borrow_mut().retain(|(of, _)| of != url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_wanted_longest_ago_goes() {
        let lasting = Lasting::default();
        *lasting.of("a").lock().await = Some(1);
        for n in 0..MAX_SERVERS - 1 {
            *lasting.of(&format!("h{n}")).lock().await = Some(2);
        }
        assert_eq!(*lasting.of("a").lock().await, Some(1));
        assert_eq!(*lasting.of("b").lock().await, None);
        assert_eq!(*lasting.of("h0").lock().await, None, "h0 made room for b");
        assert_eq!(*lasting.of("a").lock().await, Some(1));
        lasting.forget("a");
        assert_eq!(*lasting.of("a").lock().await, None);
        assert_eq!(lasting.0.borrow().len(), MAX_SERVERS);
    }
}
