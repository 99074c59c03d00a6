//! Reaching a running broker: its Kafka listener, or its HTTP one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::client::dial;
use super::client::kafka::{KafkaClient, KafkaError};

/// Bound of every wait for the broker.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest HTTP answer that is read.
const HTTP_BYTES_MAX: u64 = 64 << 20;
/// Longest line of its head, and longest text of an error.
const HEAD_BYTES_MAX: u64 = 16 << 10;

/// Which broker.
#[derive(Args)]
pub(super) struct BrokerArgs {
    /// The broker's Kafka listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    pub(super) broker: String,
}

impl BrokerArgs {
    pub(super) fn connect(&self) -> Result<KafkaClient, Failure> {
        KafkaClient::connect(&self.broker, TIMEOUT).map_err(|error| {
            Failure::absent(format!(
                "cannot reach a broker at {}: {error}. Try: headwater serve, or --broker HOST:PORT",
                self.broker
            ))
        })
    }
}

/// What a failed request means for the exit code: an unknown topic or a broker that went is "nothing there", a name, a number of
/// partitions or a setting that cannot be is wrong use.
pub(super) fn refused(what: &str, error: &KafkaError) -> Failure {
    const UNKNOWN_TOPIC: i16 = 3;
    const INVALID_TOPIC: i16 = 17;
    const INVALID_PARTITIONS: i16 = 37;
    const INVALID_CONFIG: i16 = 40;
    match error {
        KafkaError::Refused {
            code: UNKNOWN_TOPIC, ..
        } => Failure::absent(format!("{what}: {error}. Try: headwater topic list")),
        KafkaError::Io(_) => Failure::absent(format!(
            "{what}: the connection to the broker failed: {error}. Try: again, once it runs"
        )),
        KafkaError::Refused {
            code: INVALID_TOPIC,
            text,
        } if !text.contains("Try:") => Failure::usage(format!(
            "{what}: {error}. Try: up to 249 letters, digits, '.', '_' and '-'"
        )),
        KafkaError::Refused {
            code: INVALID_TOPIC | INVALID_PARTITIONS | INVALID_CONFIG,
            ..
        } => Failure::usage(format!("{what}: {error}")),
        _ => Failure::failed(format!("{what}: {error}")),
    }
}

/// Where the API is.
#[derive(Args)]
pub(super) struct HttpArgs {
    /// The broker's HTTP listener
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7480")]
    pub(super) http: String,
}

impl HttpArgs {
    /// The body of a page that the broker answers with 200.
    pub(super) fn page(&self, path: &str) -> Result<String, Failure> {
        let (status, body) = get(self.authority()?, path, TIMEOUT).map_err(|error| self.unreachable(&error))?;
        match status {
            200 => Ok(body),
            _ => Err(self.answered(path, status, &body)),
        }
    }

    /// The body of an answer as it comes.
    pub(super) fn stream(&self, path: &str) -> Result<impl Read, Failure> {
        let asked = ask(self.authority()?, path, TIMEOUT).and_then(|stream| {
            let mut answer = BufReader::new(stream);
            let (mut status, mut line) = (None, String::new());
            while answer.by_ref().take(HEAD_BYTES_MAX).read_line(&mut line)? > 0 && line.trim_end() != "" {
                status = status.or_else(|| line.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok()));
                line.clear();
            }
            Ok((status.unwrap_or(0), answer))
        });
        let (status, mut answer) = asked.map_err(|error| self.unreachable(&error))?;
        if status == 200 {
            return Ok(answer);
        }
        let mut body = String::new();
        // What the broker says beside its status helps; without it the status is told.
        let _ = answer.by_ref().take(HEAD_BYTES_MAX).read_to_string(&mut body);
        Err(self.answered(path, status, &body))
    }

    fn authority(&self) -> Result<&str, Failure> {
        let authority = self.http.strip_prefix("http://").map(|a| a.trim_end_matches('/'));
        authority.ok_or_else(|| {
            Failure::usage(format!(
                "{:?} is not a URL of the broker. Try: --http http://127.0.0.1:7480",
                self.http
            ))
        })
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        Failure::absent(format!(
            "cannot reach a broker at {}: {error}. Try: headwater serve, or --http URL",
            self.http
        ))
    }

    fn answered(&self, path: &str, status: u16, body: &str) -> Failure {
        Failure::failed(format!("{}{path} answered {status}: {}", self.http, body.trim()))
    }
}

/// Sends one GET over a connection of its own.
fn ask(authority: &str, path: &str, timeout: Duration) -> std::io::Result<TcpStream> {
    let address = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut stream = dial(&address, timeout)?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    )?;
    Ok(stream)
}

/// One GET over a connection of its own: status and body.
pub(super) fn get(authority: &str, path: &str, timeout: Duration) -> std::io::Result<(u16, String)> {
    let stream = ask(authority, path, timeout)?;
    let mut answer = Vec::new();
    stream.take(HTTP_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let parts = answer.split_once("\r\n\r\n");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok());
    match (parts, status) {
        (Some((_, body)), Some(status)) => Ok((status, body.to_owned())),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "the answer is not HTTP",
        )),
    }
}
