//! `headwater serve`: the broker itself.

use std::path::PathBuf;

use clap::Args;

use super::logs::{self, Format, LogLevel};
use super::{ConfigArgs, Failure, configuration, process};
use crate::net;

/// `headwater serve`
#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where everything is kept; the same as --set node.data_dir=DIR
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How events are written to standard error
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: Format,
    /// The least important events that are written
    #[arg(long, value_enum, default_value = "info", value_name = "LEVEL")]
    log_level: LogLevel,
    /// End, as on SIGTERM, when the process that started this one does
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut config = configuration::load(&self.config)?;
        if let Some(data_dir) = self.data_dir {
            config.node.data_dir = data_dir;
        }
        logs::start(self.log_format, self.log_level);
        if self.end_with_parent {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
                .map_err(|error| Failure::failed(format!("the end of the parent cannot be watched: {error}")))?;
        }
        let options = net::ServeOptions {
            process: process::facts,
        };
        net::serve(config, options).map_err(|error| Failure {
            code: error.exit_code(),
            text: error.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::config::{Config, Env};
    use crate::log::fault::Faulty;
    use crate::net::clock::Clock;

    /// Set in the process that is the broker of the test below.
    const IN_CHILD: &str = "HEADWATER_TEST_BROKER";
    const TEST: &str = "cli::serve::tests::a_panic_of_the_writer_ends_the_process_and_acks_nothing";

    /// A whole broker, over a store that panics when it is to commit records.
    fn serve_until_the_panic() {
        logs::start(Format::Text, LogLevel::Info);
        let clock = Clock::new();
        let disk = Faulty::default();
        disk.panic_on_records();
        let sets: Vec<String> = ["mqtt=127.0.0.1:0", "kafka=", "compact=", "http="]
            .iter()
            .map(|listener| format!("listen.{listener}"))
            .collect();
        let config = Config::parse("test", "", &sets, &Env::fixed()).expect("a configuration");
        let options = net::ServeOptions {
            process: process::facts,
        };
        let served = net::serve_over(disk.held(clock.now()), config, Arc::default(), clock, options);
        panic!("it ended by itself: {served:?}");
    }

    #[test]
    fn a_panic_of_the_writer_ends_the_process_and_acks_nothing() {
        if std::env::var_os(IN_CHILD).is_some() {
            return serve_until_the_panic();
        }
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args([TEST, "--exact", "--nocapture"])
            .env(IN_CHILD, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("this binary runs");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe"))
            .lines()
            .map_while(Result::ok);
        let listening = lines.find(|line| line.contains("listening")).expect("it listens");
        let (_, address) = listening.rsplit_once("address=").expect("with its address");
        let mut socket = TcpStream::connect(address).expect("a connection");
        // CONNECT of MQTT 3.1.1, then PUBLISH with QoS 1.
        socket
            .write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a")
            .expect("sent");
        socket.read_exact(&mut [0; 4]).expect("CONNACK");
        socket.write_all(b"\x32\x06\x00\x01t\x00\x01x").expect("sent");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("the end of the connection");
        assert_eq!(answer, b"", "nothing was stored");
        let last = lines.last().expect("more lines");
        assert!(last.contains("ERROR") && last.contains("the process ends"), "{last}");
        assert!(
            last.contains("log-writer") && last.contains("a planted panic"),
            "{last}"
        );
        assert_eq!(child.wait().expect("it ended").code(), Some(1));
    }
}
