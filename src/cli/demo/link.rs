//! The link to the centre: a TCP proxy in front of one address that can be cut and mended. While it is cut, connections break
//! and new ones are closed at once.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::super::client::dial;

/// Bound of connecting to the other end.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Connections at once; one more is closed. The forwarder has one or two.
const CONNECTIONS_MAX: usize = 64;
const PIECE_BYTES: usize = 64 << 10;

#[derive(Default)]
struct State {
    cut: bool,
    ended: bool,
    /// Both ends of every connection.
    open: Vec<(TcpStream, TcpStream)>,
}

/// A running proxy.
pub(super) struct Link {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// Listens on this port of the loopback, 0 for a free one, and leads to `to`.
    pub(super) fn open(port: u16, to: &str) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, to) = (Arc::clone(&state), to.to_owned());
        let thread = std::thread::spawn(move || {
            for near in listener.incoming() {
                if lock(&shared).ended {
                    return;
                }
                if let Ok(near) = near {
                    // Closed at once when it cannot be led on: the forwarder notes it and tries again.
                    let _ = lead(near, &to, &shared);
                }
            }
        });
        Ok(Self {
            address,
            state,
            thread: Some(thread),
        })
    }

    /// Where to connect to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks every connection and lets none through.
    pub(super) fn cut(&self) {
        let mut state = lock(&self.state);
        state.cut = true;
        close_all(&mut state);
    }

    /// Lets connections through again.
    pub(super) fn mend(&self) {
        lock(&self.state).cut = false;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.state);
            state.ended = true;
            close_all(&mut state);
        }
        // Wakes the listener, so that it sees that it is to end.
        let woken = TcpStream::connect(self.address);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close_all(state: &mut State) {
    for (near, far) in state.open.drain(..) {
        // An error says that it is closed already.
        let _ = near.shutdown(Shutdown::Both);
        let _ = far.shutdown(Shutdown::Both);
    }
}

fn lead(near: TcpStream, to: &str, shared: &Mutex<State>) -> io::Result<()> {
    if lock(shared).cut {
        return Ok(());
    }
    let far = dial(to, TIMEOUT)?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(None)?;
    }
    let (near_again, far_again) = (near.try_clone()?, far.try_clone()?);
    {
        let mut state = lock(shared);
        // What has ended on its own is let go here.
        state.open.retain(|(near, _)| near.peer_addr().is_ok());
        // It may have been cut while it was dialled.
        if state.cut || state.ended || state.open.len() >= CONNECTIONS_MAX {
            return Ok(());
        }
        state.open.push((near.try_clone()?, far.try_clone()?));
    }
    std::thread::spawn(move || carry(near, far));
    std::thread::spawn(move || carry(far_again, near_again));
    Ok(())
}

/// Moves bytes one way until either end is closed; then both are.
fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(count) = from.read(&mut piece)
        && count > 0
        && to.write_all(piece.get(..count).unwrap_or_default()).is_ok()
    {}
    // An error says that it is closed already.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that answers each byte with the next one.
    fn peer() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&[byte[0] + 1]).is_ok() {}
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(&[7])?;
        let mut byte = [0];
        stream.read_exact(&mut byte).map(|()| byte[0])
    }

    #[test]
    fn a_cut_link_breaks_what_is_open_and_a_mended_one_carries_again() {
        let link = Link::open(0, &peer().to_string()).expect("a link");
        let mut first = TcpStream::connect(link.address()).expect("a connection");
        assert_eq!(ask(&mut first).expect("an answer"), 8);
        link.cut();
        assert!(ask(&mut first).is_err(), "the open connection breaks");
        let refused = TcpStream::connect(link.address()).and_then(|mut stream| ask(&mut stream));
        assert!(refused.is_err(), "nothing gets through");
        link.mend();
        let mut second = TcpStream::connect(link.address()).expect("a connection");
        assert_eq!(ask(&mut second).expect("an answer"), 8);
    }
}
