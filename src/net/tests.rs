//! The driver over real loopback sockets, with sessions made for the test.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;

use smol::{Async, LocalExecutor};

use super::clock::Clock;
use super::conclude;
use super::connection::{Env, Outcome, drive};
use super::stop::Stopping;
use crate::config::Protocol;
use crate::log::Log;
use crate::metrics::Metrics;
use crate::model::{End, Now, Output, Session};

/// Echoes lines of four bytes; `boom` panics, `quit` says goodbye.
struct Lines {
    output: Output,
    end: Option<End>,
}

impl Session for Lines {
    fn input(&mut self, bytes: &[u8], _now: Now) -> usize {
        let Some(line) = bytes.get(..4) else { return 0 };
        match line {
            b"boom" => panic!("planted"),
            b"quit" => self.end = Some(End::Finished),
            _ => {}
        }
        self.output.put(line);
        4
    }
    fn poll(&mut self, _now: Now) {}
    fn output(&mut self) -> &mut Output {
        &mut self.output
    }
    fn wants_input(&self) -> bool {
        self.output.len() < 4096
    }
    fn deadline_us(&self) -> Option<u64> {
        None
    }
    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }
    fn stop(&mut self, _now: Now) {
        self.output.put(b"stop");
        self.end = Some(End::Finished);
    }
    fn gone(&mut self, _now: Now) {}
}

fn env(handshake_ms: u64) -> Rc<Env> {
    let clock = Clock::new();
    Rc::new(Env {
        log: Log::inline(clock.now()),
        metrics: Arc::new(Metrics::default()),
        clock,
        stopping: Rc::new(Stopping::default()),
        handshake_ms,
        idle_ms: 60_000,
    })
}

fn pair() -> (Async<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let (server, _) = listener.accept().expect("the same connection");
    (Async::new(server).expect("a non-blocking socket"), client)
}

fn lines() -> Box<dyn Session> {
    Box::new(Lines {
        output: Output::default(),
        end: None,
    })
}

/// Drives one connection while `client` talks to it from a thread of its own.
fn talk(env: Rc<Env>, client: impl FnOnce(TcpStream) + Send + 'static) -> Outcome {
    let (server, socket) = pair();
    let peer = std::thread::spawn(move || client(socket));
    let outcome = smol::block_on(drive(server, env, |_, _| lines()));
    peer.join().expect("the client's own checks hold");
    outcome
}

#[test]
fn frames_cut_anywhere_reach_the_session_whole() {
    let outcome = talk(env(10_000), |mut socket| {
        let sent: Vec<u8> = (0..40_000u32).flat_map(|i| (i % 100).to_be_bytes()).collect();
        let (mut reader, expected) = (socket.try_clone().expect("a second handle"), sent.clone());
        let reading = std::thread::spawn(move || {
            let mut got = vec![0; expected.len()];
            reader.read_exact(&mut got).expect("every byte comes back");
            assert!(got == expected, "the echo differs from what was sent");
        });
        for piece in sent.chunks(977) {
            socket.write_all(piece).expect("sent");
        }
        reading.join().expect("read");
        socket.write_all(b"quit").expect("sent");
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).expect("an orderly end");
        assert_eq!(rest, b"quit");
    });
    assert_eq!(outcome, Outcome::Session(End::Finished));
}

#[test]
fn a_panic_ends_only_its_own_connection() {
    let env = env(10_000);
    let (first, mut bad) = pair();
    let (second, mut good) = pair();
    let executor = LocalExecutor::new();
    let one = executor.spawn(drive(first, Rc::clone(&env), |_, _| lines()));
    let two = executor.spawn(drive(second, Rc::clone(&env), |_, _| lines()));
    let client = std::thread::spawn(move || {
        bad.write_all(b"boom").expect("sent");
        let mut rest = Vec::new();
        bad.read_to_end(&mut rest).expect("closed");
        good.write_all(b"finequit").expect("sent");
        good.read_to_end(&mut rest).expect("closed");
        assert_eq!(rest, b"finequit");
    });
    let outcomes = smol::block_on(executor.run(async { (one.await, two.await) }));
    client.join().expect("the client's own checks hold");
    assert_eq!(
        outcomes,
        (Outcome::Panicked("planted".into()), Outcome::Session(End::Finished))
    );
}

/// What is logged while `f` runs.
fn logged(f: impl FnOnce()) -> String {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let writer = Arc::new(writer);
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(Arc::clone(&writer))
        .finish();
    tracing::subscriber::with_default(subscriber, f);
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    text
}

#[test]
fn a_panic_of_a_session_is_counted_and_logged_as_an_error() {
    let metrics = Metrics::default();
    let address = "127.0.0.1:9".parse().expect("an address");
    let end = |outcome| logged(|| conclude(outcome, Protocol::Kafka, address, &metrics.net));
    let panics = || metrics.net.panics.get_or_create(&Protocol::Kafka.into()).get();
    let told = end(Outcome::Session(End::Finished));
    assert_eq!((panics(), told.as_str()), (0, ""));
    let told = end(Outcome::Panicked("planted".into()));
    assert_eq!(panics(), 1);
    assert!(
        told.contains("ERROR") && told.contains("planted") && told.contains("127.0.0.1:9"),
        "{told}"
    );
}

#[test]
fn a_silent_peer_is_closed_after_the_handshake_time() {
    let outcome = talk(env(20), |mut socket| {
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).expect("closed by the broker");
    });
    assert_eq!(outcome, Outcome::TimedOut("no first frame within limits.handshake"));
}

#[test]
fn stopping_lets_every_session_say_goodbye() {
    let env = env(10_000);
    let (server, mut socket) = pair();
    let executor = LocalExecutor::new();
    let task = executor.spawn(drive(server, Rc::clone(&env), |_, _| lines()));
    let client = std::thread::spawn(move || {
        socket.write_all(b"helo").expect("sent");
        let mut four = [0; 4];
        socket.read_exact(&mut four).expect("the echo");
        // Open until the test is over: a closed socket is another ending.
        socket
    });
    let outcome = smol::block_on(executor.run(async {
        let _socket = smol::unblock(move || client.join().expect("the client's own checks hold")).await;
        env.stopping.set();
        env.stopping.all_gone().await;
        task.await
    }));
    assert_eq!(outcome, Outcome::Session(End::Finished));
    assert_eq!(env.stopping.tasks(), 0);
}
