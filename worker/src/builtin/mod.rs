//! The built-in handlers.

mod capture;
mod exec;
mod stdout;
mod stream;
pub(crate) mod transport;

use roundsman_shared::assignment::HandlerSpec;
use roundsman_shared::job::settle::Outcome;

use crate::api::{Context, Handler, Handlers, Patience, Run};
use crate::session::Task;

/// Handlers that do what the pool's settings say.
pub(crate) fn make(spec: HandlerSpec, slots: usize) -> Handlers {
    let other: Box<dyn Handler> = match spec {
        HandlerSpec::Exec { command, env } => Box::new(exec::Exec::new(command, env, slots)),
        HandlerSpec::Stream { command, env } => Box::new(stream::Stream::new(command, env)),
        HandlerSpec::Stdout => Box::new(stdout::Stdout::open()),
        HandlerSpec::Noop => Box::new(Noop),
        spec @ (HandlerSpec::Http { .. }
        | HandlerSpec::Amqp { .. }
        | HandlerSpec::Redis { .. }
        | HandlerSpec::Tcp { .. }
        | HandlerSpec::Callback { .. }
        | HandlerSpec::Reply { .. }) => Box::new(transport::Transport::new(&spec, slots)),
    };
    Handlers { other: Some(other), ..Handlers::default() }
}

/// Ends every job at once.
struct Noop;

impl Handler for Noop {
    fn start(&self, _: &Task, _: Context) -> Run {
        Box::pin(std::future::ready(
            Outcome::Done { result: None, follow_ups: Vec::new(), note: None }.into(),
        ))
    }

    fn patience(&self) -> Patience {
        Patience::Drop
    }
}
