//! The points of charts: `{NAMESPACE}:points:STEP`, a sorted set of `MOMENT TEXT` by moment.

use super::RedisStore;
use crate::store::{MAX_POINTS, Point, StoreError};

impl RedisStore {
    /// See [`crate::store::Store::plot`].
    pub async fn plot(&self, point: &Point, keep: u32) -> Result<bool, StoreError> {
        let mut call = self.link.scripts.plot.call(&self.keys.registry());
        call.arg(point.step).arg(point.at).arg(&point.text).arg(keep);
        let kept = self.link.run_one(call).await?;
        Ok(kept == redis::Value::Int(1))
    }

    /// See [`crate::store::Store::plotted`].
    pub async fn plotted(&self, step: u32, from: i64, to: i64) -> Result<Vec<Point>, StoreError> {
        let mut call = redis::cmd("ZRANGEBYSCORE");
        call.arg(self.keys.points(step)).arg(from).arg(format!("({to}")).arg("LIMIT").arg(0).arg(MAX_POINTS);
        let members: Vec<String> = self.link.query(&call).await?;
        let point = |member: &String| {
            let (at, text) = member.split_once(' ')?;
            Some(Point { step, at: at.parse().ok()?, text: text.to_owned() })
        };
        Ok(members.iter().filter_map(point).collect())
    }
}
