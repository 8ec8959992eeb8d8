//! What `ops/docs/amqp.md` tells people to do, done.

use std::path::Path;
use std::process::Command;

use roundsman_tests::amqp_client::Client;
use roundsman_tests::rabbit_server::RabbitServer;
use roundsman_tests::spawn;
use roundsman_tests::wait::wait_for;

use crate::amqp::{ECHO, taking};
use crate::rig::{Rig, SOON, Store, log};

/// The block of this language.
fn snippet(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/docs/amqp.md");
    let text = std::fs::read_to_string(page).unwrap();
    let (_, rest) = text.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Debian's `pika` is there for its own python, which need not be the first one.
fn python() -> &'static str {
    let has_pika = |python: &&str| {
        let mut command = spawn::command(python);
        command.args(["-c", "import pika"]);
        spawn::output(command).is_ok_and(|done| done.status.success())
    };
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(has_pika)
        .expect("pika is installed (`ops/test` does that)")
}

fn output(mut command: Command, server: &RabbitServer) -> String {
    command.env("AMQP_URL", server.url());
    let done = spawn::output(command).unwrap();
    let (printed, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{printed}{errors}");
    printed.trim().to_owned()
}

#[test]
fn the_snippets_work() {
    let server = RabbitServer::start().unwrap();
    let rig = Rig::new(Store::Sqlite, &format!("{ECHO}{}", taking(&server.url())));
    let up = rig.up(0);
    let client = Client::connect(&server.url()).unwrap();
    let mut command = spawn::command(python());
    command.args(["-c", &snippet("python")]);
    assert_eq!(output(command, &server), "done {'n': 20}", "{}", log(&up));
    assert_eq!(client.look("jobs").unwrap().0, 0);
    let mut command = spawn::command("sh");
    command.args(["-c", &snippet("sh")]);
    output(command, &server);
    wait_for("the job of the shell", SOON, || {
        let done = rig.json(&["job", "list", "--queue", "default", "--state", "done"]);
        let found = done["jobs"].as_array().unwrap().iter().any(|job| job["payload"]["to"] == "a@b.c");
        if found { Ok(()) } else { Err(done.to_string()) }
    })
    .unwrap_or_else(|late| panic!("{late}\n{}", log(&up)));
}
