//! The roles of the fleet's processes.

use crate::cli::UpArgs;
use crate::print;
use roundsman_shared::exit;

pub fn up(args: UpArgs) -> u8 {
    drop((args.globals, args.host_id, args.command));
    not_built()
}

pub fn master() -> u8 {
    not_built()
}

pub fn worker() -> u8 {
    roundsman_worker::serve()
}

pub fn intake() -> u8 {
    crate::intake::run()
}

fn not_built() -> u8 {
    print::complain("not built");
    exit::FAILED
}
