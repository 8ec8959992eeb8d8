//! The store's contract: one suite, held against Redis, against SQLite and against the model in memory.
//!
//! ```text
//! random    sequences of operations on a store and on the model, with every answer and the whole state compared
//! rules_*   one test a rule, by hand; all that needs a real clock is here
//! peers     several processes at once, some of which die
//! ```
//! `ROUNDSMAN_CONTRACT_CASES` sets the number of random cases.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "contract/compare.rs"]
mod compare;
#[path = "contract/op.rs"]
mod op;
#[path = "contract/peers.rs"]
mod peers;
#[path = "contract/random.rs"]
mod random;
#[path = "contract/rules_change.rs"]
mod rules_change;
#[path = "contract/rules_enqueue.rs"]
mod rules_enqueue;
#[path = "contract/rules_lease.rs"]
mod rules_lease;
#[path = "contract/rules_order.rs"]
mod rules_order;
#[path = "contract/rules_read.rs"]
mod rules_read;
#[path = "contract/stores.rs"]
mod stores;
#[path = "contract/twin.rs"]
mod twin;
