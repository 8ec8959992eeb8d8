//! A small file system that runs full.
#![expect(clippy::print_stdout, reason = "says why it was skipped")]
#![expect(clippy::disallowed_methods, reason = "mounts with the system's tools")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::testing::*;
use crate::job::{NewJob, Outcome, State};
use crate::store::StoreError;

/// A mounted tmpfs.
struct Small(PathBuf, #[expect(dead_code, reason = "removed with it")] tempfile::TempDir);

impl Small {
    fn mount(mib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        done.is_ok_and(|status| status.success()).then(|| Self(dir.path().to_owned(), dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_backlog_drains_on_a_full_disk() {
    let Some(small) = Small::mount(16) else {
        println!("skipped: no tmpfs can be mounted here");
        return;
    };
    let store = open(&small.0).await;
    assert_eq!(store.durability().await.unwrap().level, "memory");
    let q = queue("q");
    let payload = format!("\"{}\"", "x".repeat(500));
    let (mut stored, mut refused) = (0, 0);
    for batch in 0..1000 {
        let jobs: Vec<NewJob> = (0..50).map(|n| job(&format!("{batch}-{n}"), &payload)).collect();
        match store.enqueue(&q, &jobs, 1_000_000).await {
            Ok(answers) => stored += answers.len(),
            Err(StoreError::NearLimit(why)) => {
                assert!(why.contains("are kept for acknowledgements"), "{why}");
                refused += 1;
                if refused == 20 {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stored >= 10_000 && refused == 20, "stored {stored}");
    let view = store.overview(&q).await.unwrap();
    assert_eq!(view.ready, u64::try_from(stored).unwrap(), "what was refused is not there");
    // Something else takes the rest.
    let filler = small.0.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    drop(file);
    let reserve = || fs::metadata(small.0.join("jobs.db-reserve")).unwrap().len();
    assert!(reserve() > 512 * 1024);
    // Whoever waits for one of them learns how it ended; what is kept for that is bounded.
    let held = pull(&store, &q, 1).await.deliveries;
    end(&store, &q, &held, || {
        let result = serde_json::value::RawValue::from_string(format!("\"{}\"", "r".repeat(50_000)));
        Outcome::Done { result: result.ok(), follow_ups: Vec::new(), note: None }
    })
    .await;
    let found = store.look(&q, &[held[0].id.clone()]).await.unwrap().remove(0).unwrap();
    assert_eq!(found.state(), State::Done);
    assert!(found.progress.error.unwrap().contains("could not be kept"));
    let held = pull(&store, &q, 1).await.deliveries;
    end(&store, &q, &held, || {
        let result = serde_json::value::RawValue::from_string("42".to_owned());
        Outcome::Done { result: result.ok(), follow_ups: Vec::new(), note: None }
    })
    .await;
    let found = store.look(&q, &[held[0].id.clone()]).await.unwrap().remove(0).unwrap();
    assert_eq!((found.state(), found.progress.result.unwrap().get()), (State::Done, "42"));
    let held = pull(&store, &q, 200).await.deliveries;
    end(&store, &q, &held, done).await;
    assert_eq!(store.overview(&q).await.unwrap().done, 64);
    assert_eq!(finish_all(&store, &q, &retention()).await, stored - 202);
    assert_eq!(reserve(), 0, "the reserve was what made room");
    let view = store.overview(&q).await.unwrap();
    assert_eq!((view.ready, view.running, view.ended_total), (0, 0, u64::try_from(stored).unwrap()));
    // The pages that became free in the file serve again, with the other one there or not.
    fs::remove_file(&filler).unwrap();
    for _ in 0..100 {
        if store.enqueue(&q, &[job("late", "1")], 10).await.is_ok() {
            assert_eq!(finish_all(&store, &q, &retention()).await, 1);
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it does not heal");
}
