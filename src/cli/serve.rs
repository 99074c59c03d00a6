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
