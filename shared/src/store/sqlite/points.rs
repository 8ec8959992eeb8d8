//! The points of charts.

use rusqlite::params;

use super::fault::Fault;
use super::tx::{Tx, View};
use crate::store::{MAX_POINTS, Point};

pub(super) fn plot(tx: &Tx<'_>, point: &Point, keep: u32) -> Result<bool, Fault> {
    let namespace = tx.view.namespace.as_str();
    let kept = tx
        .sql("INSERT OR IGNORE INTO points (namespace, step, at, text) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![namespace, point.step, point.at, point.text])?;
    let oldest = point.at - i64::from(point.step) * i64::from(keep);
    tx.sql("DELETE FROM points WHERE namespace = ?1 AND step = ?2 AND at <= ?3")?
        .execute(params![namespace, point.step, oldest])?;
    Ok(kept == 1)
}

pub(super) fn plotted(view: &View<'_>, step: u32, from: i64, to: i64) -> Result<Vec<Point>, Fault> {
    let mut read = view.sql(
        "SELECT at, text FROM points WHERE namespace = ?1 AND step = ?2 AND at >= ?3 AND at < ?4 \
         ORDER BY at LIMIT ?5",
    )?;
    let points = read
        .query_map(params![view.namespace.as_str(), step, from, to, MAX_POINTS], |row| {
            Ok(Point { step, at: row.get(0)?, text: row.get(1)? })
        })?
        .collect::<Result<_, _>>()?;
    Ok(points)
}
