//! What people ask of a master about one worker: that it leave, and what it is at.

use std::fmt::Write as _;
use std::fs;

use roundsman_shared::clock::Mono;
use roundsman_shared::exit;
use roundsman_shared::protocol::Question;

use crate::event::Key;
use crate::fleet::Fleet;
use crate::slot::{self, Life};

/// Threads and descendants that are told of.
const THREADS: usize = 64;
const DESCENDANTS: usize = 32;
/// Bytes of text in one line of the pipe.
const PIECE: usize = 3000;
/// Pieces of one answer; the pipe to the supervisor holds more.
const PIECES: usize = 8;

/// What is said, and what is to be done first.
pub(crate) struct Answer {
    /// To exit with.
    pub code: u8,
    /// Never empty.
    pub lines: Vec<String>,
    pub then: Option<(Key, slot::Event)>,
}

/// Works it out.
pub(crate) fn to(fleet: &Fleet, what: &Question, now: Mono) -> Answer {
    let (Question::StopWorker { worker, .. } | Question::DumpWorker { worker }) = what;
    let Some((hand, life)) = fleet.worker(worker) else {
        let line =
            format!("there is no worker {worker} on this host; `roundsman worker list` shows those that are");
        return Answer { code: exit::NOT_FOUND, lines: vec![line], then: None };
    };
    match what {
        Question::StopWorker { now: at_once, .. } => {
            let (event, how) = if *at_once {
                (slot::Event::Release, "leaves at once; what it ran is put back".to_owned())
            } else {
                let how = match life.beat.running {
                    0 => "leaves".to_owned(),
                    1 => "leaves after its job".to_owned(),
                    jobs => format!("leaves after its {jobs} jobs"),
                };
                (slot::Event::Drain { by: None, why: "told to leave (worker stop)".to_owned() }, how)
            };
            let line = format!("worker {worker} (pid {}) {how}", hand.pid);
            Answer { code: exit::OK, lines: vec![line], then: Some((hand.key.clone(), event)) }
        }
        Question::DumpWorker { .. } => {
            Answer { code: exit::OK, lines: pieces(&dump(worker, hand.pid, life, now)), then: None }
        }
    }
}

fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for line in text.lines() {
        let line = &line[..line.floor_char_boundary(PIECE)];
        let room = pieces.last().map_or(0, |last| PIECE.saturating_sub(last.len()));
        if line.len() + 1 > room {
            if pieces.len() == PIECES {
                break;
            }
            pieces.push(String::new());
        }
        if let Some(last) = pieces.last_mut() {
            if !last.is_empty() {
                last.push('\n');
            }
            last.push_str(line);
        }
    }
    pieces
}

/// What is known of a worker, and what the system tells of its threads and of what it has started.
fn dump(worker: &str, pid: u32, life: &Life, now: Mono) -> String {
    let mut text = String::new();
    let beat = &life.beat;
    let _ = writeln!(
        text,
        "worker {worker}: pid {pid}, {}, last heard {} ms ago; {} claimed, {} done, {} failed, {} running, {} MiB, store {}",
        life.state(),
        now.since(life.heard).as_millis(),
        beat.claimed,
        beat.done,
        beat.failed,
        beat.running,
        beat.rss_kb / 1024,
        if beat.store_ok { "well" } else { "not answering" },
    );
    for job in &beat.jobs {
        let _ = writeln!(
            text,
            "  job {}/{} (attempt {}): runs for {} ms, may for {} ms more",
            job.queue, job.id, job.attempt, job.ran, job.left
        );
    }
    let threads = numbers(&format!("/proc/{pid}/task"));
    for thread in threads.iter().take(THREADS) {
        if let Some(line) = task(&format!("/proc/{pid}/task/{thread}")) {
            let _ = writeln!(text, "  thread {thread} {line}");
        }
    }
    if threads.len() > THREADS {
        let _ = writeln!(text, "  and {} more threads", threads.len() - THREADS);
    }
    let mut below = children(pid);
    let mut at = 0;
    while let Some(child) = below.get(at).copied().filter(|_| at < DESCENDANTS) {
        at += 1;
        below.extend(children(child));
        let command = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if let Some(line) = task(&format!("/proc/{child}")) {
            let _ = writeln!(text, "  below it: process {child} {line}: {}", command.trim_end());
        }
    }
    text
}

/// Name, state, processor time and where it waits in the kernel, of a thread or process.
fn task(folder: &str) -> Option<String> {
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let (name, rest) = stat.rsplit_once(')')?;
    let name = name.split_once('(').map_or("", |(_, name)| name);
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let state = match *fields.first()? {
        "R" => "runs",
        "S" => "sleeps",
        "D" => "waits in the kernel, uninterruptibly",
        "T" | "t" => "is stopped",
        "Z" => "has ended",
        other => other,
    };
    // Fields 14 and 15 of proc_pid_stat(5), in ticks of a hundredth of a second.
    let ticks: u64 = fields.get(11..13)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    let place = fs::read_to_string(format!("{folder}/wchan")).unwrap_or_default();
    let place = if place.is_empty() || place == "0" { String::new() } else { format!(" in {place}") };
    Some(format!("({name}) {state}{place}, {}.{:02} s of processor time", ticks / 100, ticks % 100))
}

fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = numbers(&format!("/proc/{pid}/task"));
    let lists =
        tasks.iter().filter_map(|task| fs::read_to_string(format!("/proc/{pid}/task/{task}/children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_into_lines_of_the_pipe() {
        assert_eq!(pieces("a\nb"), ["a\nb"]);
        let text = format!("{}\n", "x".repeat(1000)).repeat(10);
        let cut = pieces(&text);
        assert_eq!(cut.iter().map(String::len).collect::<Vec<_>>(), [2001, 2001, 2001, 2001, 2001]);
        let text = "é".repeat(PIECE) + "\n";
        assert!(pieces(&text.repeat(100)).iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(pieces(&text.repeat(100)).len(), PIECES);
    }

    #[test]
    fn the_system_tells_of_this_very_process() {
        let own = std::process::id();
        assert!(!numbers(&format!("/proc/{own}/task")).is_empty());
        assert!(task(&format!("/proc/{own}")).is_some_and(|line| line.contains("processor time")));
    }
}
