//! A number that a program prints. The program, and all that it started, ends with the reading.

use std::process::Stdio;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::Reading;

/// Bytes of its output that are read.
const MOST: u64 = 1024;

/// Its process group, which ends with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

pub(super) async fn read(command: &[String]) -> Reading {
    let (program, arguments) = command.split_first().ok_or("an empty command")?;
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    let mut start = Command::new(program);
    start.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
    let mut child: Child = start.spawn().map_err(|error| format!("{program} cannot be started: {error}"))?;
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    // Dropped before the child is reaped, unless it has been waited for: then the group is signalled a moment before.
    let group = Group(pid);
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MOST).read_to_end(&mut said).await.map_err(|error| error.to_string())?;
    }
    // It has said what it had to say, or too much.
    drop_rest(&mut child, group).await?;
    let text = String::from_utf8_lossy(&said);
    number(&text).ok_or_else(|| {
        format!("{program} printed no number: {:?}", text.chars().take(40).collect::<String>())
    })
}

/// Waits for its end, and ends what it left behind.
async fn drop_rest(child: &mut Child, group: Group) -> Result<(), String> {
    let status = child.wait().await.map_err(|error| error.to_string())?;
    // The group's number is nobody else's as long as a member lives; without one this reaches nobody.
    drop(group);
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}

fn number(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    words.next().is_none().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_a_reading() {
        assert_eq!(number(" 12\n"), Some(12));
        for text in ["", "\n", "a", "-1", "1 2", "1.5", "99999999999999999999999"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_program_is_asked() {
        let sh = |script: &str| ["sh", "-c", script].map(str::to_owned);
        assert_eq!(read(&sh("echo 7")).await, Ok(7));
        assert!(read(&sh("echo 7; exit 3")).await.unwrap_err().contains('3'));
        assert!(read(&sh("echo seven")).await.unwrap_err().contains("no number"));
        assert!(read(&["/nonexistent/program".to_owned()]).await.unwrap_err().contains("cannot be started"));
    }
}
