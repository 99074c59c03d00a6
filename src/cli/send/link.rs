//! A TCP connection as the device crate wants one: reads wait a bounded time and then say `TimedOut`.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use headwater_device::embedded_io;

/// The connection.
pub struct Link {
    stream: TcpStream,
    wait: Duration,
}

/// What failed, for a person.
#[derive(Debug)]
pub struct LinkError(pub io::Error);

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for LinkError {}

impl embedded_io::Error for LinkError {
    fn kind(&self) -> embedded_io::ErrorKind {
        match self.0.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => embedded_io::ErrorKind::TimedOut,
            io::ErrorKind::Interrupted => embedded_io::ErrorKind::Interrupted,
            _ => embedded_io::ErrorKind::Other,
        }
    }
}

impl Link {
    /// Connects to the first address of `broker` that answers.
    pub fn connect(broker: &str) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in broker.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let wait = Duration::from_millis(5);
                    stream.set_read_timeout(Some(wait))?;
                    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
                    return Ok(Self { stream, wait });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// How long a read waits.
    pub fn wait(&mut self, wait: Duration) -> io::Result<()> {
        if self.wait != wait {
            self.stream.set_read_timeout(Some(wait))?;
            self.wait = wait;
        }
        Ok(())
    }
}

impl embedded_io::ErrorType for Link {
    type Error = LinkError;
}

impl embedded_io::Read for Link {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize, LinkError> {
        self.stream.read(buf).map_err(LinkError)
    }
}

impl embedded_io::Write for Link {
    fn write(&mut self, buf: &[u8]) -> Result<usize, LinkError> {
        self.stream.write(buf).map_err(LinkError)
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        Ok(())
    }
}
