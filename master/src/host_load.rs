//! Reads what this machine has left, for [`crate::guard`]: a few small files that the kernel makes up when they are read,
//! so that no disk is waited for. Where there are none, as on macOS, nothing is known.

use std::fs;
use std::path::{Path, PathBuf};

use crate::guard::Reading;

/// Cgroups above ours that are looked at.
const DEPTH: usize = 16;
/// Threads of a worker whose processor time is summed up.
const THREADS: usize = 64;

pub(crate) fn read() -> Reading {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of_machine = |name: &str| Some(number_after(&info, name)? * 1024);
    let (mut available, mut total) = (of_machine("MemAvailable:"), of_machine("MemTotal:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for (folder, names) in cgroups(&groups) {
        // A limit beyond what there is limits nothing.
        let limit = names.limits.iter().filter_map(|name| number_in(&folder.join(name))).min();
        let Some(limit) = limit.filter(|limit| total.is_none_or(|total| *limit < total)) else { continue };
        total = Some(limit);
        let Some(used) = number_in(&folder.join(names.used)) else { continue };
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        // Files that nobody has open lately are given up first.
        let spare = number_after(&stat, names.spare).unwrap_or(0);
        let left = limit.saturating_sub(used.saturating_sub(spare));
        available = Some(available.map_or(left, |available| available.min(left)));
    }
    let memory = pressure(&groups, "memory");
    Reading {
        available,
        total,
        memory_some: average(&memory, "some"),
        memory_full: average(&memory, "full"),
        cpu_some: average(&pressure(&groups, "cpu"), "some"),
    }
}

/// Nanoseconds in which the threads of a process have run or waited to run.
pub(crate) fn wanted_cpu(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().take(THREADS);
    let wanted = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        Some(text.split_whitespace().take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>())
    });
    Some(wanted.sum())
}

/// The files of a version of cgroups.
struct Names {
    limits: &'static [&'static str],
    used: &'static str,
    spare: &'static str,
}

const FIRST: Names =
    Names { limits: &["memory.limit_in_bytes"], used: "memory.usage_in_bytes", spare: "total_inactive_file" };
const SECOND: Names =
    Names { limits: &["memory.max", "memory.high"], used: "memory.current", spare: "inactive_file" };

/// Our cgroup and those that hold it.
fn cgroups(groups: &str) -> Vec<(PathBuf, &'static Names)> {
    let line = |line: &'_ str| {
        let mut fields = line.splitn(3, ':').skip(1).map(str::to_owned);
        Some((fields.next()?, fields.next()?))
    };
    let mut all = Vec::new();
    for (controllers, path) in groups.lines().filter_map(line) {
        let (root, names) = match &*controllers {
            "" => ("/sys/fs/cgroup", &SECOND),
            it if it.split(',').any(|it| it == "memory") => ("/sys/fs/cgroup/memory", &FIRST),
            _ => continue,
        };
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|folder| folder.starts_with(root)).take(DEPTH);
        all.extend(above.map(|folder| (folder.to_owned(), names)));
    }
    all
}

/// Of our cgroup where it is told, else of the machine.
fn pressure(groups: &str, of: &str) -> String {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let file = own.map(|own| Path::new("/sys/fs/cgroup").join(own).join(format!("{of}.pressure")));
    let text = file.and_then(|file| fs::read_to_string(file).ok());
    text.or_else(|| fs::read_to_string(format!("/proc/pressure/{of}")).ok()).unwrap_or_default()
}

/// Percent of the last ten seconds.
fn average(text: &str, kind: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("avg10=")?.parse().ok())
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let of_line = |line: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok();
    text.lines().find_map(of_line)
}

fn number_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        let text =
            "some avg10=0.31 avg60=0.73 avg300=0.89 total=78316027\nfull avg10=12.00 avg60=0.28 total=3\n";
        assert_eq!((average(text, "some"), average(text, "full")), (Some(0.31), Some(12.0)));
        assert_eq!(average("", "some"), None);
        let stat = "cache 5\ninactive_file 4096\ntotal_inactive_file 8192\n";
        assert_eq!(
            (number_after(stat, "inactive_file"), number_after(stat, "total_inactive_file")),
            (Some(4096), Some(8192))
        );
        assert_eq!(number_after("MemAvailable:   23304192 kB\n", "MemAvailable:"), Some(23_304_192));
    }

    #[test]
    fn the_limits_are_those_of_our_cgroup_and_of_those_around_it() {
        let folders = |groups: &str| {
            cgroups(groups).iter().map(|(folder, _)| folder.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            folders("0::/system.slice/a.service\n"),
            ["/sys/fs/cgroup/system.slice/a.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"]
        );
        assert_eq!(folders("4:memory:/a\n3:cpu:/a\n"), ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells_what_it_has() {
        let Reading { available, total, .. } = read();
        let (Some(available), Some(total)) = (available, total) else { panic!("{available:?} of {total:?}") };
        assert!(available > 0 && available <= total, "{available} of {total}");
        assert!(wanted_cpu(std::process::id()).is_some_and(|nanos| nanos > 0));
    }
}
