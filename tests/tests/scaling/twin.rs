//! A short form of the live twin (`ops/twin` has the long one): real processes under two loads for half a minute, held
//! against the simulator as roughly as a busy machine allows: worker-seconds within 40 %, and as many jobs in time.

use std::process::Command;

use roundsman_tests::spawn;
use roundsman_tests::tree::built;

#[test]
fn real_processes_do_what_is_simulated() {
    let mut command: Command = spawn::bound_command(built("scaling-twin").unwrap());
    command.args(["step", "retry", "--scale", "0.02", "--parallel", "2", "--rough"]);
    let done = spawn::output(command).unwrap();
    let (figures, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}\n{figures}{errors}", done.status);
}
