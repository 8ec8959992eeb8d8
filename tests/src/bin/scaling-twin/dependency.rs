//! What jobs of a trace depend on that serves few at once: it tells each how many it serves now, and counts it until it
//! hangs up.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Serves until it is dropped, on a [`tokio::task::LocalSet`].
pub(crate) async fn serve(at: &Path) -> std::io::Error {
    let listener = match UnixListener::bind(at) {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let served = Rc::new(Cell::new(0_u8));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::task::spawn_local(attend(stream, served.clone()))),
            Err(error) => return error,
        }
    }
}

async fn attend(mut stream: UnixStream, served: Rc<Cell<u8>>) {
    served.set(served.get().saturating_add(1));
    if stream.write_u8(served.get()).await.is_ok() {
        // Nothing is said; it ends when the job does.
        let _ = stream.read_u8().await;
    }
    served.set(served.get().saturating_sub(1));
}
