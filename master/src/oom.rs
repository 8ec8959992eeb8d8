//! Whether a process ended for want of memory: the kernel counts, for each cgroup, whom it has killed for that, and some
//! runtimes say it in their last words.
//!
//! The kernel's count names nobody, so each rise of it stands for one death, and only for one about the same time: a
//! process that is no worker may have been meant, and somebody may send a SIGKILL an hour later.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use roundsman_shared::clock::Mono;

use crate::slot::Exit;

/// A rise that no worker's death has explained so long after it was seen was somebody else's.
const EXPLAINED_WITHIN: Duration = Duration::from_secs(5);
/// What counts for the whole machine, where no cgroup does.
const MACHINE: &str = "/proc/vmstat";
/// What runtimes write before they abort because they were refused memory: Rust, C++, V8.
const LAST_WORDS: [(&str, &str); 3] =
    [("memory allocation of ", " bytes failed"), ("std::bad_alloc", ""), ("heap out of memory", "")];
/// Lines at the end of what was written in which they are looked for.
const LINES: usize = 40;

/// How often the kernel has killed somebody in one cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    /// Those whose death is known, or was no worker's.
    explained: u64,
    /// A rise beyond that, and when it was seen.
    risen: Option<(Mono, u64)>,
}

impl Count {
    const fn new(count: u64) -> Self {
        Self { explained: count, risen: None }
    }

    fn look(&mut self, now: Mono, count: u64) {
        if let Some((since, risen)) = self.risen
            && now.since(since) >= EXPLAINED_WITHIN
        {
            self.explained = self.explained.max(risen);
            self.risen = None;
        }
        if count > self.explained && self.risen.is_none() {
            self.risen = Some((now, count));
        }
    }

    /// Whether a death of this moment was one that the kernel has counted.
    fn explain(&mut self, now: Mono, count: u64) -> bool {
        self.look(now, count);
        let is_counted = count > self.explained;
        if is_counted {
            self.explained += 1;
            self.risen = self.risen.filter(|(_, risen)| *risen > self.explained);
        }
        is_counted
    }
}

/// The counts of the cgroups in which this master and its workers are.
#[derive(Debug)]
pub(crate) struct Kills {
    own: PathBuf,
    counts: BTreeMap<PathBuf, Count>,
}

impl Kills {
    pub(crate) fn new() -> Self {
        let mut kills = Self { own: counter("self"), counts: BTreeMap::new() };
        kills.know(&kills.own.clone());
        kills
    }

    /// Where the kernel counts for this process.
    pub(crate) fn of(&mut self, pid: u32) -> PathBuf {
        let counter = counter(&pid.to_string());
        self.know(&counter);
        counter
    }

    fn know(&mut self, counter: &Path) {
        if let Some(count) = read(counter).filter(|_| !self.counts.contains_key(counter)) {
            self.counts.insert(counter.to_owned(), Count::new(count));
        }
    }

    /// A moment passed. `used`: where the workers that are there have theirs.
    pub(crate) fn look<'p>(&mut self, now: Mono, used: impl Iterator<Item = &'p Path>) {
        let (own, used): (_, Vec<&Path>) = (&self.own, used.collect());
        self.counts.retain(|counter, _| counter == own || used.contains(&counter.as_path()));
        for (counter, known) in &mut self.counts {
            if let Some(count) = read(counter) {
                known.look(now, count);
            }
        }
    }

    /// Whether the death of a worker, by a SIGKILL that was not ours, was for want of memory.
    pub(crate) fn explain(&mut self, now: Mono, counter: Option<&Path>) -> bool {
        let counter = counter.unwrap_or(&self.own);
        let (Some(known), Some(count)) = (self.counts.get_mut(counter), read(counter)) else { return false };
        known.explain(now, count)
    }
}

/// The file with the count of a process's cgroup.
fn counter(pid: &str) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let found = candidates(&groups).into_iter().find(|path| read(path).is_some());
    found.unwrap_or_else(|| PathBuf::from(MACHINE))
}

/// Of cgroups(7) in both versions, as far as they count: the process's own, and the root as a container sees it.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            it if it.split(',').any(|it| it == "memory") => ("/sys/fs/cgroup/memory", "memory.oom_control"),
            _ => continue,
        };
        all.push(Path::new(root).join(path.trim_start_matches('/')).join(file));
        all.push(Path::new(root).join(file));
    }
    all
}

fn read(counter: &Path) -> Option<u64> {
    count_in(&fs::read_to_string(counter).ok()?)
}

fn count_in(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Whether an abort says that it was for want of memory.
pub(crate) fn is_said(exit: Exit, last_words: Option<&str>) -> bool {
    let says = |line: &str| {
        LAST_WORDS
            .iter()
            .any(|(begin, end)| line.split_once(begin).is_some_and(|(_, rest)| rest.contains(end)))
    };
    exit == Exit::Signal(6) && last_words.is_some_and(|text| text.lines().rev().take(LINES).any(says))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn each_rise_explains_one_death_of_about_that_time() {
        let mut count = Count::new(3);
        assert!(!count.explain(at(0), 3), "what was before");
        assert!(count.explain(at(10), 4));
        assert!(!count.explain(at(20), 4), "somebody else sent that one");
        count.look(at(1000), 6);
        assert!(count.explain(at(1100), 6) && count.explain(at(1200), 6) && !count.explain(at(1300), 6));
        // A process that was no worker.
        count.look(at(10_000), 7);
        count.look(at(14_000), 7);
        assert!(!count.explain(at(15_000), 7));
        assert!(count.explain(at(15_001), 8));
        // Nobody looked for long, as while the whole process was stopped.
        assert!(count.explain(at(900_000), 9));
    }

    #[test]
    fn the_count_is_that_of_the_processs_own_cgroup() {
        let paths = |groups: &str| {
            candidates(groups).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("0::/system.slice/roundsman.service\n"),
            ["/sys/fs/cgroup/system.slice/roundsman.service/memory.events", "/sys/fs/cgroup/memory.events"]
        );
        assert_eq!(
            paths("5:cpu,cpuacct:/a\n4:memory:/a:b\n1:name=systemd:/a\n")[0],
            "/sys/fs/cgroup/memory/a:b/memory.oom_control"
        );
        assert_eq!(paths("nonsense\n"), [""; 0]);
        assert_eq!(count_in("low 0\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(count_in("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"), Some(5));
        assert_eq!(count_in("oom 2\n"), None);
    }

    #[test]
    fn aborts_say_that_they_were_refused_memory() {
        let said = |text: &str| is_said(Exit::Signal(6), Some(text));
        assert!(said("note\nmemory allocation of 2147483648 bytes failed\nstack backtrace:\n  0: x"));
        assert!(said("terminate called after throwing an instance of 'std::bad_alloc'"));
        assert!(said("FATAL ERROR: Reached heap limit - JavaScript heap out of memory"));
        assert!(!said("assertion failed") && !is_said(Exit::Signal(6), None));
        assert!(!is_said(Exit::Code(1), Some("memory allocation of 1 bytes failed")));
    }
}
