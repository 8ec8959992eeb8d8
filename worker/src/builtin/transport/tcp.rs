//! `tcp`: the payload as one line of compact JSON over a pooled connection.
//!
//! Done means that the whole line was handed to a connection that was open: the other side's kernel may have it, its
//! program need not have read it. Who needs an answer wants `http`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use roundsman_shared::job::settle::Outcome;
use roundsman_shared::reach::Reach;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Letter;
use super::circuit::{Destination, Verdict};
use super::connect::{Idle, Trouble, keep_swept, plain};

/// See the module's text.
#[derive(Default)]
pub(super) struct Tcp {
    idle: Rc<RefCell<Idle<TcpStream>>>,
    sweeping: Rc<Cell<bool>>,
}

impl Tcp {
    pub(super) async fn deliver(
        &self,
        to: &Destination,
        letter: &Letter<'_>,
        reach: &Reach,
    ) -> Result<(Outcome, Verdict), Trouble> {
        let mut line = letter.body.to_json();
        line.push('\n');
        while let Some(mut stream) = self.take(to) {
            // A part of a line on a connection that breaks is no line.
            if stream.write_all(line.as_bytes()).await.is_ok() {
                return Ok(self.done(to, stream));
            }
        }
        let mut stream = plain(to, reach).await?;
        match stream.write_all(line.as_bytes()).await {
            Ok(()) => Ok(self.done(to, stream)),
            Err(error) => Err(Trouble::Broken(format!("{to}: {error}"))),
        }
    }

    fn done(&self, to: &Destination, stream: TcpStream) -> (Outcome, Verdict) {
        self.idle.borrow_mut().put(to, stream);
        keep_swept(&self.idle, &self.sweeping);
        (Outcome::Done { result: None, follow_ups: Vec::new(), note: None }, Verdict::Well)
    }

    /// A connection that the other side has not closed.
    fn take(&self, to: &Destination) -> Option<TcpStream> {
        loop {
            let stream = self.idle.borrow_mut().take(to)?;
            if is_open(&stream) {
                return Some(stream);
            }
        }
    }
}

/// What it says is of no interest, only that it is there; who says more than a little is left.
fn is_open(stream: &TcpStream) -> bool {
    let mut said = [0; 1024];
    for _ in 0..4 {
        match stream.try_read(&mut said) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
    false
}
