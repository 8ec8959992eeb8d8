//! Roundsman from outside: what tests, benchmarks and chaos runs share.
//!
//! - fixtures that start real programs and take them down with the test: [`redis_server`], [`rabbit_server`],
//!   [`tree`], [`browser`]; [`receiver`], small servers made here, and [`ports`] for them; a broker's other user ([`amqp_client`]), and what stands between it
//!   and ours ([`amqp_proxy`]); a line that can be cut ([`cable`])
//! - what is known of a process without its help: [`proc`]
//! - waiting for a condition, the only place where a test may sleep: [`wait`]
//! - what the workers of a trace that is played for real tell of it: [`twin`]
//! - the history that every actor of a run writes ([`history`]), and the checker that reads it ([`checker`])
//! - what a store is meant to do ([`model`]), which the contract suite holds the real ones against; and a whole fleet in
//!   one thread on it, under a clock of its own ([`simulation`])
//!
//! Absent on purpose: mocks of our own parts, and any way to signal a process by its name.

pub mod amqp_client;
pub mod amqp_proxy;
pub mod browser;
pub mod cable;
pub mod checker;
pub mod history;
pub mod model;
pub mod pipe_child;
pub mod ports;
pub mod proc;
pub mod rabbit_server;
pub mod receiver;
pub mod redis_server;
pub mod simulation;
pub mod spawn;
pub mod time;
pub mod tree;
pub mod twin;
pub mod wait;
