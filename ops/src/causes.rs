//! Dead letters by the cause that they share, as `dead list --by error`, the API and the dashboard show them.

use std::collections::BTreeMap;

use roundsman_shared::job::view::Found;
use roundsman_shared::store::{MAX_BATCH, Store};
use serde::Serialize;

use crate::errors::Failure;
use crate::walk::{Filter, Section, Walk, cause};

/// The most dead letters that a grouping or a bulk change looks at.
pub const FURTHEST: usize = 100_000;
/// What a call of the API looks at when nobody says.
pub const LOOK: usize = 4_000;

/// Dead letters that share a cause.
#[derive(Debug, Serialize)]
pub struct Group {
    pub error: String,
    pub count: u64,
    pub queues: BTreeMap<String, u64>,
    /// When the oldest of them ended, of those looked at.
    pub oldest: Option<i64>,
    /// When the newest of them ended.
    pub newest: Option<i64>,
    /// The newest, as `QUEUE/ID`, to look at.
    pub example: String,
}

/// All groups, the largest first.
#[derive(Debug)]
pub struct Causes {
    pub groups: Vec<Group>,
    pub looked: usize,
    /// There are dead letters that were not looked at.
    pub more: bool,
    /// The store's clock, in Unix milliseconds.
    pub now: i64,
}

impl Causes {
    /// Looks at so many dead letters, the newest of each queue, of which none takes what others could be shown by.
    pub async fn read(
        store: &Store,
        sections: &[Section],
        filter: &Filter,
        furthest: usize,
    ) -> Result<Self, Failure> {
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        let (mut looked, mut more, mut now) = (0, false, 0);
        for (index, section) in sections.iter().enumerate() {
            let mut walk = Walk::new(store, std::slice::from_ref(section), None)?;
            let share = (furthest - looked).div_ceil(sections.len() - index);
            while walk.looked < share {
                let Some(page) = walk.step((share - walk.looked).min(MAX_BATCH)).await? else { break };
                for found in page.into_iter().filter(|found| filter.matches(found)) {
                    now = found.now.as_millis();
                    add(&mut groups, &found);
                }
            }
            looked += walk.looked;
            more |= walk.cursor().is_some();
        }
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        Ok(Self { groups, looked, more, now })
    }
}

fn add(groups: &mut BTreeMap<String, Group>, found: &Found) {
    let error = cause(found.progress.error.as_deref().unwrap_or_default());
    let name = || format!("{}/{}", found.queue, found.id);
    let group = groups.entry(error.clone()).or_insert_with(|| Group {
        error,
        count: 0,
        queues: BTreeMap::new(),
        oldest: found.progress.ended,
        newest: None,
        example: name(),
    });
    group.count += 1;
    *group.queues.entry(found.queue.to_string()).or_default() += 1;
    group.oldest = group.oldest.min(found.progress.ended);
    if found.progress.ended > group.newest {
        group.newest = found.progress.ended;
        group.example = name();
    }
}
