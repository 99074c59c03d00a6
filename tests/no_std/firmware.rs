//! What a board's program looks like, without the board: no std, no allocator, its buffers chosen here and its whole memory in
//! one struct. It is compiled by the test beside it, never run.

#![no_std]

#[cfg(feature = "planted")]
extern crate planted as _;

use core::panic::PanicInfo;

use headwater_device::embedded_io::{ErrorType, Read, Write};
use headwater_device::wire::{BatchWriter, Entry, Message, Receiver, decode, encode};
use headwater_device::{Client, Event, RamQueue};

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// A serial port in memory.
pub struct Port {
    fifo: [u8; 16],
    len: usize,
}

impl ErrorType for Port {
    type Error = core::convert::Infallible;
}

impl Read for Port {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, Self::Error> {
        let n = buf.len().min(self.len);
        buf[..n].copy_from_slice(&self.fifo[..n]);
        self.fifo.copy_within(n.., 0);
        self.len -= n;
        Ok(n)
    }
}

impl Write for Port {
    fn write(&mut self, buf: &[u8]) -> Result<usize, Self::Error> {
        let n = buf.len().min(self.fifo.len() - self.len);
        self.fifo[self.len..][..n].copy_from_slice(&buf[..n]);
        self.len += n;
        Ok(n)
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// A device with 512 bytes of queue and frames of 128.
pub struct Board {
    client: Client<'static, RamQueue<512>, 128>,
    port: Port,
}

impl Board {
    /// At boot.
    pub fn new(boots: u32) -> Self {
        let client = Client::new("board-1", boots, RamQueue::new());
        #[cfg(feature = "psk")]
        let client = client.with_key(&[7; 16]);
        let port = Port { fifo: [0; 16], len: 0 };
        Self { client, port }
    }

    /// Once a round; whether a command came.
    pub fn round(&mut self, now_ms: i64, reading: &[u8]) -> bool {
        let _ = self.client.push(Some(now_ms), "t", reading);
        match self.client.poll(&mut self.port, now_ms) {
            Ok(Some(Event::Command(id))) => {
                self.client.command_done(id);
                true
            }
            Ok(Some(Event::Ended(_) | Event::HungUp | Event::Silent)) => {
                self.client.connected(now_ms);
                false
            }
            _ => false,
        }
    }
}

/// The wire crate alone: a batch, a frame, a receiver.
pub fn echo(bytes: &[u8], out: &mut [u8; 64]) -> usize {
    let mut receiver = Receiver::<64>::new();
    let mut scratch = [0; 64];
    let _ = decode(bytes, &mut scratch);
    match receiver.feed(bytes) {
        (_, Some(Ok(Message::Ping(token)))) => encode(&Message::Pong(token), out).unwrap_or(0),
        _ => match BatchWriter::new(out, 1, 60) {
            Ok(mut batch) => {
                batch.push(&Entry { time: None, channel: "t", payload: bytes });
                batch.finish().unwrap_or(0)
            }
            Err(_) => 0,
        },
    }
}
