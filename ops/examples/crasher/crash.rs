//! The ends of a route: each does what brings its signal about in a faulty program.
#![expect(unsafe_code, reason = "crashing takes a wild pointer or an instruction that traps")]

use std::hint::black_box;

use nix::libc;

/// A signal that the program can die of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Segv,
    Abrt,
    Ill,
    Fpe,
}

impl Signal {
    pub(crate) const ALL: [Self; 4] = [Self::Segv, Self::Abrt, Self::Ill, Self::Fpe];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Segv => "SIGSEGV",
            Self::Abrt => "SIGABRT",
            Self::Ill => "SIGILL",
            Self::Fpe => "SIGFPE",
        }
    }

    pub(crate) fn number(self) -> i32 {
        match self {
            Self::Segv => libc::SIGSEGV,
            Self::Abrt => libc::SIGABRT,
            Self::Ill => libc::SIGILL,
            Self::Fpe => libc::SIGFPE,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }

    pub(crate) fn numbered(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.number() == number)
    }
}

/// Dies of `signal`, in one of several ways that `choice` picks. `PLACE` makes the code one of its own.
#[inline(always)]
pub(crate) fn crash<const PLACE: u64>(signal: Signal, choice: u64) -> u64 {
    match (signal, choice % 4) {
        (Signal::Segv, 0) => overflow_stack(choice | 1),
        (Signal::Segv, 1) => Wild(PLACE as usize + 8).read(),
        (Signal::Segv, _) => Wild(PLACE as usize + 8).write(choice),
        (Signal::Abrt, 0) => std::process::abort(),
        (Signal::Abrt, 1) => black_box(&[choice; 3][..])[black_box(PLACE as usize + 3)],
        (Signal::Abrt, 2) => black_box(None::<u64>).expect("a value that is not there"),
        (Signal::Abrt, _) => panic!("gave up at {PLACE}"),
        (Signal::Ill, _) => illegal_instruction(),
        (Signal::Fpe, _) => divide_by_zero(PLACE),
    }
}

/// An address in the first page, which is never mapped.
struct Wild(usize);

impl Wild {
    #[inline(always)]
    fn read(&self) -> u64 {
        // SAFETY: none: the read faults, which is what it is for. It is volatile, so that it stays.
        unsafe { std::ptr::read_volatile(black_box(self.pointer())).into() }
    }

    #[inline(always)]
    fn write(&self, value: u64) -> u64 {
        // SAFETY: none: the write faults, which is what it is for. It is volatile, so that it stays.
        unsafe { std::ptr::write_volatile(black_box(self.pointer()), value as u8) };
        value
    }

    #[inline(always)]
    fn pointer(&self) -> *mut u8 {
        std::ptr::without_provenance_mut(self.0)
    }
}

#[inline(never)]
fn overflow_stack(value: u64) -> u64 {
    let frame = black_box([value; 64]);
    if frame[0] == 0 { value } else { overflow_stack(frame[63]).wrapping_add(frame[1]) }
}

#[inline(always)]
fn illegal_instruction() -> u64 {
    // SAFETY: the instruction only raises the fault.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("ud2")
    };
    #[cfg(not(target_arch = "x86_64"))]
    send_itself(Signal::Ill);
    black_box(0)
}

#[inline(always)]
fn divide_by_zero(value: u64) -> u64 {
    // SAFETY: the division only raises the fault. (Rust's own would panic first.)
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::asm!("div {}", in(reg) black_box(0_u64), inout("rax") value => _, inout("rdx") 0_u64 => _);
    };
    #[cfg(not(target_arch = "x86_64"))]
    send_itself(Signal::Fpe);
    black_box(value)
}

/// For processors that do not trap here.
#[cfg(not(target_arch = "x86_64"))]
fn send_itself(signal: Signal) {
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(signal.number()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_found_by_its_name_and_number() {
        for signal in Signal::ALL {
            assert_eq!(Signal::named(signal.name()), Some(signal));
            assert_eq!(Signal::numbered(signal.number()), Some(signal));
        }
        assert_eq!(Signal::named("SIGHUP"), None);
    }
}
