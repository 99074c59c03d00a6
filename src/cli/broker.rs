//! Reaching a running broker: its Kafka listener, or its HTTP one.

use std::io::{Read, Write};
use std::time::Duration;

use clap::Args;

use super::Failure;
use super::client::dial;
use super::client::kafka::{KafkaClient, KafkaError};

/// Bound of every wait for the broker.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest HTTP answer that is read.
const HTTP_BYTES_MAX: u64 = 64 << 20;

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
        let Some(authority) = self.http.strip_prefix("http://").map(|a| a.trim_end_matches('/')) else {
            return Err(Failure::usage(format!(
                "{:?} is not a URL of the broker. Try: --http http://127.0.0.1:7480",
                self.http
            )));
        };
        let (status, body) = get(authority, path, TIMEOUT).map_err(|error| {
            Failure::absent(format!(
                "cannot reach a broker at {}: {error}. Try: headwater serve, or --http URL",
                self.http
            ))
        })?;
        match status {
            200 => Ok(body),
            _ => Err(Failure::failed(format!(
                "{}{path} answered {status}: {}",
                self.http,
                body.trim()
            ))),
        }
    }
}

/// One GET over a connection of its own: status and body.
pub(super) fn get(authority: &str, path: &str, timeout: Duration) -> std::io::Result<(u16, String)> {
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
