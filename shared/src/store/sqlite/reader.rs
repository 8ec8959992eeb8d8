//! The one thread of a process that only looks, each time at one moment of the file.

use std::sync::atomic::Ordering;

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::fault::{Fault, Remedy};
use super::guard;
use super::open::{self, Patience};
use super::tx::View;
use super::writer::Place;
use crate::store::StoreError;

/// Pages kept in memory.
const CACHE_KIB: u32 = 1024;

pub(super) type Look = Box<dyn FnOnce(&mut Reader) + Send>;

pub(super) struct Reader {
    place: Place,
    conn: Option<(u64, Connection)>,
}

impl Reader {
    pub(super) const fn new(place: Place) -> Self {
        Self { place, conn: None }
    }

    pub(super) fn run(mut self, mut looks: mpsc::Receiver<Look>) {
        while let Some(look) = looks.blocking_recv() {
            look(&mut self);
        }
    }

    /// Runs one look.
    pub(super) fn look<T>(
        &mut self,
        look: impl FnOnce(&View<'_>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let generation = self.place.generation.load(Ordering::Relaxed);
        let conn = match &mut self.conn {
            Some((opened, conn)) if *opened == generation => conn,
            other => {
                *other = None;
                let conn = open::connect(&self.place.file, CACHE_KIB, &Patience::default());
                &mut other.insert((generation, conn.map_err(Fault::into_store)?)).1
            }
        };
        let outcome = (|| {
            conn.prepare_cached("BEGIN")?.execute([])?;
            let line = guard::load(conn)?;
            let (_, now, _) = guard::advance(line.as_ref(), &self.place.clocks.read());
            look(&View { conn, namespace: &self.place.namespace, now })
        })();
        if !conn.is_autocommit() {
            let _ = conn.execute_batch("COMMIT");
        }
        outcome.map_err(|fault| {
            if fault.remedy() == Remedy::Reopen {
                self.conn = None;
            }
            fault.into_store()
        })
    }
}
