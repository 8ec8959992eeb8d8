//! A worker of one's own, in about ten lines. Use it with `[pools.default] command = ["./hello"]`.

use std::process::ExitCode;

use roundsman_worker::{Failure, Job, Worker};

fn main() -> ExitCode {
    Worker::new()
        .handle_any(async |job: Job<serde_json::Value>| {
            let name = job.payload.get("hello").and_then(|name| name.as_str());
            let name = name.ok_or_else(|| Failure::dead("there is nobody to greet"))?;
            Ok::<_, Failure>(format!("hello, {name}"))
        })
        .run()
}
