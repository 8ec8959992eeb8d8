//! The example in `ops/examples/unsend/`, as its page says.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use roundsman_tests::ports::free_port;
use roundsman_tests::spawn;
use roundsman_tests::wait::wait_for;

use crate::rig::{Rig, SOON, Store, log, on_both};

on_both!(a_mail_is_taken_back_in_time);

fn a_mail_is_taken_back_in_time(store: Store) {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/examples/unsend");
    let (http, smtp) = (free_port().unwrap(), free_port().unwrap());
    let settings = fs::read_to_string(example.join("roundsman.toml")).unwrap();
    assert!(settings.contains(":7070") && settings.contains(":1025"), "{settings}");
    let settings = settings.replace(":7070", &format!(":{http}")).replace(":1025", &format!(":{smtp}"));
    let rig = Rig::new(store, &settings);
    fs::copy(example.join("mailer.py"), rig.site.work().join("mailer.py")).unwrap();
    let run = |name: &str, arguments: &[&str]| {
        let mut command = spawn::command(example.join(name));
        command.args(arguments).env("ROUNDSMAN", format!("http://localhost:{http}"));
        let done = spawn::output(command).unwrap();
        let text =
            String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        (done.status.code(), text.trim().to_owned())
    };
    let up = rig.up(0);
    let (code, kept) = run("send", &["ann@example.com", "Lunch?", "At noon.", "2s"]);
    assert_eq!(code, Some(0), "{kept}\n{}", log(&up));
    let (_, regretted) = run("send", &["bob@example.com", "Resignation", "I quit.", "2s"]);
    assert_eq!(run("unsend", &[&regretted]), (Some(0), "taken back".to_owned()), "{}", log(&up));
    assert_eq!(run("unsend", &["nothing"]), (Some(1), "there is no such mail".to_owned()));
    // The mail server is away when the mail is due, and comes back.
    let waiting = rig.wait_job(&up, &kept, SOON, |job| job["error"].is_string());
    assert_eq!(waiting["attempt"], 1, "{waiting}");
    let mails = rig.site.work().join("mails");
    let mut sink: Command = spawn::bound_command(spawn::find("python3").unwrap());
    sink.arg(example.join("sink.py")).arg(smtp.to_string()).stdout(File::create(&mails).unwrap());
    let mut sink = spawn::start(sink).unwrap();
    wait_for("the mail server", SOON, || {
        let said = fs::read_to_string(&mails).unwrap();
        if said.contains("listening") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    rig.ok(&["job", "retry", &kept]);
    rig.wait_state(&up, &kept, "done");
    let mail = fs::read_to_string(&mails).unwrap();
    assert!(
        mail.contains("To: ann@example.com") && mail.contains(&format!("Message-ID: <{kept}@")),
        "{mail}"
    );
    assert!(!mail.contains("bob@example.com"), "{mail}");
    assert_eq!(rig.job(&regretted)["state"], "cancelled");
    assert_eq!(run("unsend", &[&kept]), (Some(1), "too late".to_owned()));
    sink.kill().unwrap();
    sink.wait().unwrap();
}
