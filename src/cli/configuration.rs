//! `headwater config`: check, show and print configurations, offline.

use std::io::Write as _;

use clap::Subcommand;

use super::{ConfigArgs, Failure};
use crate::compact::Keys;
use crate::config::{self, Config, Env};
use crate::route::Router;

/// `headwater config`
#[derive(Subcommand)]
pub(super) enum Configuration {
    /// Say what is wrong with a configuration, and where
    Check(ConfigArgs),
    /// Print what is in force, defaults and --set included; values from the environment stay ${NAME}
    Show(ConfigArgs),
    /// Print the embedded default, with comments
    Default,
}

impl Configuration {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Check(args) => {
                let config = load(&args)?;
                let name = args
                    .config
                    .map_or("the embedded default".to_owned(), |path| path.display().to_string());
                print(&format!(
                    "{name} is good: {} listeners, {} topics, {} routes, {} upstreams\n",
                    config.listeners.len(),
                    config.topics.len(),
                    config.routes.len(),
                    config.upstreams.len(),
                ))
            }
            Self::Show(args) => print(&format!("{}\n", load(&args)?.effective_toml())),
            Self::Default => print(config::DEFAULT),
        }
    }
}

/// Reads a configuration and has every room look at its part.
pub(super) fn load(args: &ConfigArgs) -> Result<Config, Failure> {
    let config = Config::load(args.config.as_deref(), &args.set, &Env::process())?;
    let file = args
        .config
        .as_ref()
        .map_or("the embedded default".to_owned(), |path| path.display().to_string());
    Router::compile(&config.routes).map_err(|e| Failure::usage(format!("{file}:{}: {}", e.line, e.why)))?;
    for path in config
        .listeners
        .iter()
        .filter_map(|listener| listener.psk_file.as_ref())
    {
        Keys::read(path).map_err(Failure::usage)?;
    }
    Ok(config)
}

fn print(text: &str) -> Result<(), Failure> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Failure::output(&e))
}
