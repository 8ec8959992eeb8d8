//! What the pages in `ops/docs/` tell people to do, done with the clients that they name.

use std::path::Path;
use std::process::Command;

use roundsman_tests::amqp_client::Client;
use roundsman_tests::ports::free_port;
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::spawn;
use roundsman_tests::tree::Up;
use roundsman_tests::wait::wait_for;
use serde_json::json;
use tempfile::TempDir;

use crate::amqp::{ECHO, taking};
use crate::rig::{Rig, SOON, Store, log};

/// The block of this language, from 0, on a page.
fn block(page: &str, language: &str, number: usize) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/docs").join(page);
    let text = std::fs::read_to_string(file).unwrap();
    let block = text.split(&format!("```{language}\n")).nth(number + 1).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// Debian's modules are there for its own python, which need not be the first one.
fn python(module: &str) -> &'static str {
    let has_it = |python: &&str| {
        let mut command = spawn::command(python);
        command.args(["-c", &format!("import {module}")]);
        spawn::output(command).is_ok_and(|done| done.status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(has_it)
        .unwrap_or_else(|| panic!("{module} is installed (`ops/test` does that)"))
}

/// Packages as npm's registry has them, if it can be asked here.
fn packages(names: &[&str]) -> Option<TempDir> {
    spawn::find("npm")?;
    let folder = tempfile::tempdir().unwrap();
    let mut command = spawn::command("npm");
    command
        .args(["install", "--silent", "--no-save", "--ignore-scripts"])
        .args(names)
        .current_dir(folder.path());
    spawn::output(command).ok()?.status.success().then_some(folder)
}

#[expect(clippy::print_stderr, reason = "a test that did not test says so")]
fn skipped(what: &str) {
    eprintln!("{what} cannot be had from npm here: its snippet was not tested");
}

/// A script of this language, with modules of Node from a folder.
fn script(language: &str, code: &str, modules: Option<&TempDir>) -> Command {
    let mut command = spawn::command(match language {
        "sh" => "sh",
        "js" => "node",
        module => python(module),
    });
    match language {
        "js" if !code.contains("require(") => command.args(["--input-type=module", "--eval", code]),
        "js" => command.args(["--eval", code]),
        _ => command.args(["-c", code]),
    };
    if let Some(modules) = modules {
        command.env("NODE_PATH", modules.path().join("node_modules"));
    }
    command
}

/// What it prints; it must succeed.
#[track_caller]
fn printed(mut command: Command, variables: &[(&str, &str)]) -> String {
    command.envs(variables.iter().copied());
    let done = spawn::output(command).unwrap();
    let (printed, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{printed}{errors}");
    printed.trim().to_owned()
}

/// Waits for so many jobs that were done with `{"to":"a@b.c"}`.
#[track_caller]
fn wait_greeted(rig: &Rig, up: &Up, count: usize) {
    wait_for(&format!("{count} jobs of the page"), SOON, || {
        let done = rig.json(&["job", "list", "--queue", "default", "--state", "done"]);
        let found = done["jobs"].as_array().unwrap().iter().filter(|job| job["payload"]["to"] == "a@b.c");
        if found.count() >= count { Ok(()) } else { Err(done.to_string()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(up)));
}

#[test]
fn producers_of_the_amqp_page() {
    let server = RabbitServer::start().unwrap();
    let rig = Rig::new(Store::Sqlite, &format!("{ECHO}{}", taking(&server.url())));
    let up = rig.up(0);
    let client = Client::connect(&server.url()).unwrap();
    let (url, page) = (server.url(), "amqp.md");
    let variables = [("AMQP_URL", url.as_str())];
    let said = printed(script("pika", &block(page, "python", 0), None), &variables);
    assert_eq!(said, "done {'n': 20}", "{}", log(&up));
    assert_eq!(client.look("jobs").unwrap().0, 0);
    printed(script("sh", &block(page, "sh", 0), None), &variables);
    wait_greeted(&rig, &up, 1);
    let Some(modules) = packages(&["amqplib"]) else { return skipped("amqplib") };
    // It is due in a minute.
    printed(script("js", &block(page, "js", 0).replace("60000", "200"), Some(&modules)), &variables);
    wait_greeted(&rig, &up, 2);
}

#[test]
fn producers_of_the_redis_page() {
    let rig = Rig::new(Store::Redis, ECHO);
    let up = rig.up(0);
    let (url, page) = (rig.redis().url(), "redis.md");
    let variables = [("REDIS_URL", url.as_str())];
    assert_eq!(printed(script("sh", &block(page, "sh", 0), None), &variables), "1");
    assert_eq!(rig.wait_state(&up, "welcome-17", "done")["result"], json!({"to": "a@b.c"}));
    printed(script("redis", &block(page, "python", 0), None), &variables);
    assert_eq!(rig.wait_state(&up, "count-2", "done")["result"], json!({"n": 2}));
    let Some(modules) = packages(&["ioredis"]) else { return skipped("ioredis") };
    printed(script("js", &block(page, "js", 0), Some(&modules)), &variables);
    rig.wait_state(&up, "from-node", "done");
}

#[test]
fn clients_of_the_http_page() {
    let port = free_port().unwrap();
    let rig = Rig::new(Store::Sqlite, &format!("[http]\nlisten = \"127.0.0.1:{port}\"\n{ECHO}"));
    let up = rig.up(0);
    let local = |code: String| code.replace("localhost:7070", &format!("localhost:{port}"));
    let run = |language: &str, block: String| printed(script(language, &local(block), None), &[]);
    up.wait_for(SOON, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
    })
    .unwrap();
    let page = "http.md";
    let said = run("sh", block(page, "sh", 0));
    assert!(said.contains(r#""state":"done""#) && said.contains(r#""status":201"#), "{said}");
    assert_eq!(run("requests", block(page, "python", 0)), "done", "{}", log(&up));
    let timer = run("sh", block(page, "sh", 1));
    assert!(timer.contains("location: /timer/") && timer.contains("201"), "{timer}");
    if spawn::find("node").is_none() {
        return skipped("node");
    }
    assert_eq!(run("js", block(page, "js", 0)), "done", "{}", log(&up));
}

/// Each of them doubles a number, and refuses for good what is none.
#[test]
fn workers_of_the_stream_page() {
    let languages = [("python", "python3"), ("js", "node"), ("sh", "sh")];
    for (language, program) in languages {
        if spawn::find(program).is_none() {
            skipped(program);
            continue;
        }
        let rig = Rig::new(
            Store::Sqlite,
            &block("stream.md", "toml", 0)
                .replace("\"python3\", \"app.py\"", &format!("\"{program}\", \"app\"")),
        );
        rig.script("app", &block("stream.md", language, 0));
        let up = rig.up(0);
        rig.ok(&["enqueue", "default", r#"{"n":21}"#, "--id", "good"]);
        rig.ok(&["enqueue", "default", r#"{"m":1}"#, "--id", "bad"]);
        assert_eq!(rig.wait_state(&up, "good", "done")["result"], json!(42), "{language}");
        let bad = rig.wait_state(&up, "bad", "dead");
        assert_eq!(bad["attempt"], 1, "{language}: {bad}");
    }
}
