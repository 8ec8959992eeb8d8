//! The way down to the crash: hops between many copies of one generic function, each going on by direct
//! call, inlined layers, closures in the standard library, dynamic dispatch, recursion or another thread.

use std::collections::BTreeMap;
use std::hint::black_box;

use crate::crash::{Signal, crash};
use crate::handler;

/// The longest way down that a seed picks by itself.
const DEPTH_MAX: u64 = 12;

/// What is left of the way down.
#[derive(Debug)]
pub(crate) struct Route {
    seed: u64,
    state: u64,
    hops_left: u64,
    signal: Signal,
}

type Hop = fn(&mut Route) -> u64;

macro_rules! hops {
    ($($place:literal)*) => { [$(hop::<$place>),*] };
}

/// Copies of the same source, at addresses of their own.
static HOPS: [Hop; 64] = hops!(
     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
);

impl Route {
    pub(crate) fn new(seed: u64, signal: Option<Signal>, depth: Option<u64>) -> Self {
        let mut route = Self { seed, state: seed, hops_left: 0, signal: Signal::Segv };
        let (picked_depth, picked_signal) = (1 + route.choose() % DEPTH_MAX, route.choose());
        route.hops_left = depth.unwrap_or(picked_depth);
        route.signal = signal.unwrap_or(Signal::ALL[picked_signal as usize % Signal::ALL.len()]);
        route
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Sets off, from this thread or from one of its own.
    #[inline(never)]
    pub(crate) fn run(mut self) -> u64 {
        if !self.choose().is_multiple_of(8) {
            return self.go_on();
        }
        let thread = std::thread::spawn(move || {
            handler::own_stack();
            self.go_on()
        });
        thread.join().unwrap_or(0)
    }

    fn go_on(&mut self) -> u64 {
        let hop = HOPS[self.choose() as usize % HOPS.len()];
        hop(self)
    }

    /// The next number of the seed's sequence (splitmix64).
    fn choose(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// One hop. Every way on uses what comes back, so that no call is a tail call that leaves no frame.
#[inline(never)]
fn hop<const PLACE: u64>(route: &mut Route) -> u64 {
    let Some(left) = route.hops_left.checked_sub(1) else {
        let choice = route.choose();
        return crash::<PLACE>(route.signal, choice).wrapping_add(PLACE);
    };
    route.hops_left = left;
    let choice = route.choose();
    let sum = match choice % 8 {
        0 => route.go_on(),
        1 => outer_layer::<PLACE>(route),
        2 => (0..1 + PLACE % 3).map(|step| route.go_on() ^ step).fold(0, u64::wrapping_add),
        3 => sorted::<PLACE>(route),
        4 => {
            let later: Box<dyn FnOnce(&mut Route) -> u64> =
                black_box(Box::new(|route| route.go_on() ^ PLACE));
            later(route)
        }
        5 => descend::<PLACE>(route, 1 + choice / 8 % 5),
        6 => *BTreeMap::from([(PLACE, 1)]).entry(PLACE + 1).or_insert_with(|| route.go_on()),
        _ => {
            Some(PLACE).filter(|place| place % 2 == 0).map_or(PLACE, |_| inner_layer::<PLACE>(route))
                ^ route.go_on()
        }
    };
    black_box(sum).wrapping_mul(PLACE | 1)
}

#[inline(always)]
fn outer_layer<const PLACE: u64>(route: &mut Route) -> u64 {
    let before = black_box(PLACE);
    before ^ middle_layer::<PLACE>(route)
}

#[inline(always)]
fn middle_layer<const PLACE: u64>(route: &mut Route) -> u64 {
    inner_layer::<PLACE>(route).rotate_left(3)
}

#[inline(always)]
fn inner_layer<const PLACE: u64>(route: &mut Route) -> u64 {
    let onward = |route: &mut Route| route.go_on().wrapping_sub(PLACE);
    black_box(onward(route))
}

/// Goes on from inside a sort's comparison.
fn sorted<const PLACE: u64>(route: &mut Route) -> u64 {
    let mut values = [PLACE, 3, 2, 1].map(black_box);
    values.sort_by(|left, right| {
        let onward = route.go_on();
        left.cmp(&(right ^ onward))
    });
    values[0]
}

fn descend<const PLACE: u64>(route: &mut Route, depth: u64) -> u64 {
    match depth {
        0 => route.go_on(),
        _ => black_box(descend::<PLACE>(route, depth - 1)).wrapping_add(depth),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_takes_the_same_route_and_seeds_differ() {
        let of = |seed| {
            let mut route = Route::new(seed, None, None);
            (route.signal.name(), route.hops_left, route.choose())
        };
        assert_eq!(of(5), of(5));
        assert_ne!(of(5), of(6));
        assert!(Signal::ALL.iter().all(|signal| (0..100).any(|seed| of(seed).0 == signal.name())));
    }

    #[test]
    fn what_is_asked_for_overrides_the_seed() {
        let route = Route::new(5, Some(Signal::Fpe), Some(40));
        assert_eq!((route.signal, route.hops_left), (Signal::Fpe, 40));
    }
}
