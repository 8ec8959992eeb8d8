//! The whole fleet from outside: `up`, its processes, and jobs that go through them, as people would use it and as bad
//! luck would have it. Every test has a store of its own.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its fixtures")]

#[path = "fleet/acl.rs"]
mod acl;
#[path = "fleet/amqp.rs"]
mod amqp;
#[path = "fleet/amqp_faults.rs"]
mod amqp_faults;
#[path = "fleet/amqp_replies.rs"]
mod amqp_replies;
#[path = "fleet/brokers.rs"]
mod brokers;
#[path = "fleet/changes.rs"]
mod changes;
#[path = "fleet/clock.rs"]
mod clock;
#[path = "fleet/deaths.rs"]
mod deaths;
#[path = "fleet/demo.rs"]
mod demo;
#[path = "fleet/deploy.rs"]
mod deploy;
#[path = "fleet/docs.rs"]
mod docs;
#[path = "fleet/exec.rs"]
mod exec;
#[path = "fleet/fairness.rs"]
mod fairness;
#[path = "fleet/foreign.rs"]
mod foreign;
#[path = "fleet/harm.rs"]
mod harm;
#[path = "fleet/hosts.rs"]
mod hosts;
#[path = "fleet/inbox.rs"]
mod inbox;
#[path = "fleet/memory.rs"]
mod memory;
#[path = "fleet/namesake.rs"]
mod namesake;
#[path = "fleet/operate.rs"]
mod operate;
#[path = "fleet/parents.rs"]
mod parents;
#[path = "fleet/recycle.rs"]
mod recycle;
#[path = "fleet/rig.rs"]
mod rig;
#[path = "fleet/secure.rs"]
mod secure;
#[path = "fleet/sharing.rs"]
mod sharing;
#[path = "fleet/spared.rs"]
mod spared;
#[path = "fleet/start.rs"]
mod start;
#[path = "fleet/stop.rs"]
mod stop;
#[path = "fleet/stream.rs"]
mod stream;
#[path = "fleet/stubborn.rs"]
mod stubborn;
#[path = "fleet/transports.rs"]
mod transports;
#[path = "fleet/unfit.rs"]
mod unfit;
#[path = "fleet/unsend.rs"]
mod unsend;
