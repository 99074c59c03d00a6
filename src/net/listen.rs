//! Listening sockets and their accept loops.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use smol::{Async, LocalExecutor, Timer};
use socket2::{Domain, Protocol as IpProtocol, Socket, TcpKeepalive, Type};

use super::connection::Env;
use crate::config::{Listener, Protocol};
use crate::metrics::Metrics;

/// Connections that wait to be accepted: a storm of gateways' sensors after a power cut connects at once.
const BACKLOG: i32 = 1024;

/// Binds one address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(IpProtocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Settings of an accepted connection: answers leave at once, and a dead peer is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10));
    socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The number of open connections over all listeners.
#[derive(Debug, Default)]
pub struct Open(Cell<usize>);

/// One of them; dropping it makes room.
pub struct Place {
    open: Rc<Open>,
    metrics: std::sync::Arc<Metrics>,
    protocol: Protocol,
}

impl Place {
    fn take(open: &Rc<Open>, most: usize, metrics: &std::sync::Arc<Metrics>, protocol: Protocol) -> Option<Self> {
        if open.0.get() >= most {
            metrics.net.over_limit.get_or_create(&protocol.into()).inc();
            return None;
        }
        open.0.set(open.0.get() + 1);
        metrics.net.accepted.get_or_create(&protocol.into()).inc();
        metrics.net.connections.get_or_create(&protocol.into()).inc();
        Some(Self {
            open: Rc::clone(open),
            metrics: std::sync::Arc::clone(metrics),
            protocol,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.0.set(self.open.0.get() - 1);
        self.metrics.net.connections.get_or_create(&self.protocol.into()).dec();
    }
}

/// Accepts until the broker stops; `start` gets each connection with its place.
pub async fn accept<'a, F, R>(
    listener: Async<TcpListener>,
    rules: Listener,
    env: Rc<Env>,
    open: Rc<Open>,
    connections_max: usize,
    executor: Rc<LocalExecutor<'a>>,
    start: F,
) where
    F: Fn(Async<TcpStream>, SocketAddr, Place) -> R + 'a,
    R: Future<Output = ()> + 'a,
{
    loop {
        let accepted = smol::future::or(async { Some(listener.accept().await) }, async {
            env.stopping.stopped().await;
            None
        });
        let (stream, address) = match accepted.await {
            None => return,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                env.metrics.net.accept_errors.inc();
                tracing::error!(%error, address = %rules.address, "cannot accept a connection. Try: a higher limit on open files (LimitNOFILE)");
                // The connection still waits in the kernel's queue: without a pause this would spin.
                Timer::after(Duration::from_millis(200)).await;
                continue;
            }
        };
        let Some(place) = Place::take(&open, connections_max, &env.metrics, rules.protocol) else {
            continue;
        };
        if prepare(stream.get_ref()).is_err() {
            // The peer is gone already.
            continue;
        }
        executor.spawn(start(stream, address, place)).detach();
    }
}
