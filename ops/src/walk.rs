//! Jobs over queues and states, a page at a time, as `job list`, the API and the dashboard show them.
//!
//! The store pages through one state of one queue and filters by nothing else. What people filter by beyond that is
//! looked for here, over a bounded number of jobs, and it is said how far that went.

use roundsman_shared::job::view::Found;
use roundsman_shared::job::{JobView, State};
use roundsman_shared::names::QueueName;
use roundsman_shared::store::{MAX_BATCH, Store};
use serde::Serialize;

use crate::errors::Failure;

/// The most jobs that one listing looks at for a filter.
pub const FURTHEST: usize = 10_000;
/// The same for one call of the API, which others wait for.
const FURTHEST_CALL: usize = 2_000;

/// What the store knows nothing of.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub kind: Option<String>,
    /// A part of the error.
    pub error: Option<String>,
}

impl Filter {
    pub const fn is_any(&self) -> bool {
        self.kind.is_none() && self.error.is_none()
    }

    pub fn matches(&self, found: &Found) -> bool {
        let error = |wanted: &String| {
            found.progress.error.as_ref().is_some_and(|error| {
                // A group's name stands for all of its errors.
                error.contains(wanted) || (wanted.contains('#') && cause(error).contains(wanted))
            })
        };
        let kind =
            |wanted: &String| found.record.decode().is_ok_and(|spec| spec.kind.as_ref() == Some(wanted));
        self.error.as_ref().is_none_or(error) && self.kind.as_ref().is_none_or(kind)
    }

    /// ` of kind x with "y" in the error`
    pub fn in_words(&self) -> String {
        let kind = self.kind.as_ref().map(|kind| format!(" of kind {kind}"));
        let error = self.error.as_ref().map(|error| format!(" with {error:?} in their error"));
        kind.into_iter().chain(error).collect()
    }
}

/// What errors of one cause have in common: the first line, with numbers as `#`.
pub fn cause(error: &str) -> String {
    const LONGEST: usize = 160;
    let mut cause = String::new();
    for c in error.lines().next().unwrap_or_default().chars().take(LONGEST) {
        if !c.is_ascii_digit() {
            cause.push(c);
        } else if !cause.ends_with('#') {
            cause.push('#');
        }
    }
    cause
}

/// One state of one queue.
pub type Section = (QueueName, State);

/// Where a listing goes on: `QUEUE/STATE/` and the store's own cursor, with what a shell would split written as `%XX`.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    queue: String,
    state: State,
    within: Option<String>,
}

impl Cursor {
    fn text(section: &Section, within: Option<&str>) -> String {
        let mut text = format!("{}/{}/", section.0, section.1);
        for c in within.unwrap_or_default().chars() {
            if c.is_ascii_alphanumeric() || ".-_:".contains(c) {
                text.push(c);
            } else {
                let mut bytes = [0; 4];
                text.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
            }
        }
        text
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let (queue, state, within) = (parts.next()?, parts.next()?, parts.next()?);
        let mut bytes = Vec::new();
        let mut rest = within.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            if *first == b'%' {
                let (hex, after) = after.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
                rest = after;
            } else {
                bytes.push(*first);
            }
        }
        let within = String::from_utf8(bytes).ok()?;
        let within = if within.is_empty() { None } else { Some(within) };
        Some(Self { queue: queue.to_owned(), state: state.parse().ok()?, within })
    }
}

/// A walk over the jobs of several sections, a page at a time.
#[derive(Debug, Clone)]
pub struct Walk<'w> {
    store: &'w Store,
    sections: &'w [Section],
    at: usize,
    within: Option<String>,
    /// How many jobs the next look takes in, where a filter leaves some out.
    stride: usize,
    /// Jobs seen so far.
    pub looked: usize,
}

impl<'w> Walk<'w> {
    pub fn new(store: &'w Store, sections: &'w [Section], cursor: Option<&str>) -> Result<Self, Failure> {
        let (mut at, mut within) = (0, None);
        if let Some(text) = cursor {
            let cursor = Cursor::read(text);
            let found = cursor.and_then(|cursor| {
                let section =
                    |(queue, state): &Section| queue.as_str() == cursor.queue && *state == cursor.state;
                Some((sections.iter().position(section)?, cursor.within))
            });
            (at, within) = found.ok_or_else(|| {
                Failure::usage(format!("{text:?} is no cursor of this listing"))
                    .advise("take it from \"next\" of the same listing, with the same --queue and --state")
            })?;
        }
        Ok(Self { store, sections, at, within, stride: 0, looked: 0 })
    }

    /// The next jobs, at most so many; `None` at the end. May be empty before it.
    pub async fn step(&mut self, most: usize) -> Result<Option<Vec<Found>>, Failure> {
        let Some((queue, state)) = self.sections.get(self.at) else { return Ok(None) };
        let page = self.store.list(queue, *state, self.within.as_deref(), most.min(MAX_BATCH)).await?;
        self.looked += page.found.len();
        self.within = page.next;
        if self.within.is_none() {
            self.at += 1;
        }
        Ok(Some(page.found))
    }

    /// Those of the next jobs that match, at most so many; `None` at the end. May be none before it; the fewer match, the
    /// more are looked at in one go.
    pub async fn matching(&mut self, filter: &Filter, most: usize) -> Result<Option<Vec<Found>>, Failure> {
        let mut stride = self.stride.max(most);
        loop {
            let mut ahead = self.clone();
            let Some(page) = ahead.step(stride).await? else { return Ok(None) };
            let matches = page.iter().enumerate().filter(|(_, found)| filter.matches(found));
            match matches.map(|(place, _)| place).nth(most) {
                // More than there is room for: look again, up to where the room ends.
                Some(place) => stride = place,
                None => {
                    let page: Vec<Found> = page.into_iter().filter(|found| filter.matches(found)).collect();
                    let sparse = page.len() < most / 2;
                    ahead.stride = if sparse { stride.saturating_mul(4).min(MAX_BATCH) } else { 0 };
                    *self = ahead;
                    return Ok(Some(page));
                }
            }
        }
    }

    /// Hands back the rest.
    pub fn cursor(&self) -> Option<String> {
        Some(Cursor::text(self.sections.get(self.at)?, self.within.as_deref()))
    }
}

/// `{"jobs","next"}`
#[derive(Debug, Serialize)]
pub struct Listing {
    pub jobs: Vec<JobView>,
    pub next: Option<String>,
}

impl Listing {
    /// A page of at most so many, out of a bounded number where a filter leaves jobs out. What this version cannot read is
    /// left out.
    pub async fn read(
        store: &Store,
        sections: &[Section],
        filter: &Filter,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<Self, Failure> {
        let mut walk = Walk::new(store, sections, cursor)?;
        let mut jobs = Vec::new();
        while jobs.len() < limit && (filter.is_any() || walk.looked < FURTHEST_CALL) {
            let Some(page) = walk.matching(filter, limit - jobs.len()).await? else { break };
            jobs.extend(page.into_iter().filter_map(|found| found.view().ok()));
        }
        Ok(Self { jobs, next: walk.cursor() })
    }
}

/// What a page holds when nobody says.
pub const PAGE: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_a_shell() {
        let section = (QueueName::new("mail").unwrap(), State::Ready);
        let text = Cursor::text(&section, Some("0 17 a:b/é%"));
        assert_eq!(text, "mail/ready/0%2017%20a:b%2F%C3%A9%25");
        let cursor = Cursor::read(&text).unwrap();
        assert_eq!((cursor.state, cursor.within.as_deref()), (State::Ready, Some("0 17 a:b/é%")));
        assert_eq!(Cursor::read("mail/dead/").unwrap().within, None);
        for wrong in ["", "mail", "mail/dead", "mail/none/", "mail/dead/%1", "mail/dead/%zz"] {
            assert_eq!(Cursor::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn causes_leave_numbers_out() {
        assert_eq!(cause("exit 12 after 3.5 s\nmore"), "exit # after #.# s");
        assert_eq!(cause(""), "");
    }
}
