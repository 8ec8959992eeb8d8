//! The signal handler: walks the stack that crashed and writes the report, without allocating.
//!
//! The walk is the unwinder's own (`_Unwind_Backtrace`, from the library the standard library links), which
//! steps over the signal frame by its call-frame information and so needs no frame pointers. It takes no
//! lock that the crashing code could hold: the crash is never inside the loader or the unwinder.
#![expect(unsafe_code, reason = "a signal handler, its stack and the unwinder are C interfaces")]

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

use crate::crash::Signal;

/// Deeper stacks are cut off; the innermost frames are the ones that matter.
const FRAMES_MAX: usize = 128;
/// Room for the frames as text: each is at most `"0x` and 16 digits and `",`.
const FRAMES_TEXT_BYTES: usize = FRAMES_MAX * 21 + 64;
/// Room for the handler, the unwinder and the vector registers the kernel saves.
const STACK_BYTES: usize = 128 * 1024;

/// The report's head, made before the crash.
static HEAD: OnceLock<String> = OnceLock::new();
/// Set by the first crash, so that a crash inside the handler ends the process.
static CRASHED: AtomicBool = AtomicBool::new(false);

/// Installs the handler for every [`Signal`], for a report that starts with `head`.
pub(crate) fn install(head: String) {
    HEAD.get_or_init(|| head);
    own_stack();
    for signal in Signal::ALL {
        // SAFETY: a zeroed sigaction is a valid one (no flags, empty mask); the handler has the signature
        // that SA_SIGINFO asks for and lives as long as the program.
        let refused = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_crash as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
            libc::sigaction(signal.number(), &raw const action, std::ptr::null_mut())
        };
        assert_eq!(refused, 0, "sigaction of {}", signal.name());
    }
}

/// Gives the calling thread a stack for its handler, so that even a stack overflow is reported.
pub(crate) fn own_stack() {
    let memory: &'static mut [u8] = Box::leak(vec![0; STACK_BYTES].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: memory.len() };
    // SAFETY: the memory is leaked, so it outlives the thread, and nothing else refers to it.
    let refused = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    assert_eq!(refused, 0, "sigaltstack");
}

extern "C" fn on_crash(signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {
    if CRASHED.swap(true, Ordering::SeqCst) {
        // SAFETY: _exit is async-signal-safe and does not return.
        unsafe { libc::_exit(3) };
    }
    let mut walk = Walk { frames: [0; FRAMES_MAX], count: 0, reached_crash: false };
    // SAFETY: `note_frame` matches the callback's type, and `walk` outlives the call that it is passed to.
    unsafe { _Unwind_Backtrace(note_frame, (&raw mut walk).cast()) };

    let mut text = Text { bytes: [0; FRAMES_TEXT_BYTES], length: 0 };
    text.push(b"\"signal\":\"");
    text.push(Signal::numbered(signal).map_or("unknown", Signal::name).as_bytes());
    text.push(b"\",\"frames\":[");
    for (index, frame) in walk.frames[..walk.count].iter().enumerate() {
        text.push(if index == 0 { b"\"0x" } else { b",\"0x" });
        text.push_hex(*frame);
        text.push(b"\"");
    }
    text.push(b"]}\n");
    write_all(HEAD.get().map_or("", String::as_str).as_bytes());
    write_all(&text.bytes[..text.length]);
    // SAFETY: raise is async-signal-safe; the signal is blocked here and, as SA_RESETHAND has put its
    // default action back, kills the process as soon as the handler returns.
    unsafe { libc::raise(signal) };
}

fn write_all(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: write is async-signal-safe, and the range is that of a live slice.
        let written = unsafe { libc::write(libc::STDOUT_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(written) {
            Ok(count) if count > 0 => bytes = &bytes[count..],
            _ => return,
        }
    }
}

/// The frames met so far.
struct Walk {
    frames: [u64; FRAMES_MAX],
    count: usize,
    /// False while the walk is still in the handler's own frames.
    reached_crash: bool,
}

/// The unwinder's opaque context of one frame.
#[repr(C)]
struct UnwindContext {
    _opaque: [u8; 0],
}

const GO_ON: c_int = 0;
const END_OF_STACK: c_int = 5;

// SAFETY: both are declared as in <unwind.h>; an `_Unwind_Reason_Code` is an int.
unsafe extern "C" {
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut UnwindContext, *mut c_void) -> c_int,
        argument: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIPInfo(context: *mut UnwindContext, exact: *mut c_int) -> usize;
}

extern "C" fn note_frame(context: *mut UnwindContext, walk: *mut c_void) -> c_int {
    let mut exact = 0;
    // SAFETY: the unwinder passes a valid context, and `on_crash` passed its own `Walk`, not otherwise used
    // during the walk.
    let (walk, address) =
        unsafe { (&mut *walk.cast::<Walk>(), _Unwind_GetIPInfo(context, &raw mut exact) as u64) };
    // Only the frame that the signal interrupted stands exactly at its instruction.
    walk.reached_crash |= exact != 0;
    if !walk.reached_crash || address == 0 {
        return GO_ON;
    }
    let Some(place) = walk.frames.get_mut(walk.count) else { return END_OF_STACK };
    // A caller's address is the return address: the byte before it belongs to the call.
    *place = if exact != 0 { address } else { address - 1 };
    walk.count += 1;
    GO_ON
}

/// A line put together without allocating; it is sized for all that is pushed, and cuts off what is not.
struct Text {
    bytes: [u8; FRAMES_TEXT_BYTES],
    length: usize,
}

impl Text {
    fn push(&mut self, more: &[u8]) {
        for (place, byte) in self.bytes[self.length..].iter_mut().zip(more) {
            *place = *byte;
            self.length += 1;
        }
    }

    fn push_hex(&mut self, value: u64) {
        let digits = (u64::BITS - value.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            self.push(&[b"0123456789abcdef"[(value >> (4 * digit) & 0xf) as usize]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_no_leading_zeros() {
        let mut text = Text { bytes: [0; FRAMES_TEXT_BYTES], length: 0 };
        for value in [0, 0xf, 0x10, 0x55d0_c0a0_0000, u64::MAX] {
            text.push_hex(value);
            text.push(b" ");
        }
        assert_eq!(&text.bytes[..text.length], b"0 f 10 55d0c0a00000 ffffffffffffffff ");
    }
}
