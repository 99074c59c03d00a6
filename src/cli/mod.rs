//! The command line: one file a command. Results go to standard output, everything else to standard error; the exit codes are
//! those of `src/manual/cli.md`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod backup;
mod bench;
mod broker;
mod check;
mod client;
mod configuration;
mod demo;
mod doctor;
mod export;
mod failure;
mod inspect;
mod logs;
mod moment;
mod output;
mod process;
mod produce;
mod repair;
mod send;
mod sensors;
mod serve;
mod tail;
mod topic;
mod upstream;

pub use failure::Failure;

/// A durable log broker for the edge: MQTT, Kafka and a compact protocol over one log, forwarded to Apache Kafka.
#[derive(Parser)]
#[command(name = "headwater", version, disable_help_subcommand = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker in the foreground until SIGTERM or SIGINT
    Serve(serve::Serve),
    /// The main job on this machine's own readings, within a minute, with a kill -9 in the middle
    Demo(demo::Demo),
    /// Check or print configurations
    #[command(subcommand)]
    Config(configuration::Configuration),
    /// Topics and their settings
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Records in from standard input, a line a record
    Produce(produce::Produce),
    /// Records out
    Tail(tail::Tail),
    /// A device on the compact protocol, from standard input or from this machine's sensors
    Send(send::SendArgs),
    /// State and lag of what is forwarded
    #[command(subcommand)]
    Upstream(upstream::Upstream),
    /// Verify a data directory offline, without changing a byte
    Check(check::Check),
    /// What is in a data directory, offline, without changing a byte
    Inspect(inspect::Inspect),
    /// Records out of a data directory, offline, without changing a byte
    Export(export::Export),
    /// What is intact of a damaged data directory, in a new one
    Repair(repair::Repair),
    /// A copy of everything, of a broker that runs or of a data directory
    Backup(backup::Backup),
    /// A new data directory of a backup
    Restore(backup::Restore),
    /// What is wrong with a running broker, and what to try
    Doctor(doctor::Doctor),
    /// Measure this machine: --disk its disk; the others are for who changes headwater
    Bench(bench::Bench),
}

/// Which configuration.
#[derive(Args)]
struct ConfigArgs {
    /// Configuration file; without it, the embedded default
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any key by its dotted path, such as listen.mqtt=127.0.0.1:1884; wins over the file
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    if let Command::Check(_) | Command::Inspect(_) | Command::Export(_) | Command::Repair(_) | Command::Backup(_) =
        &command
    {
        check::hush_pages();
    }
    let result = match command {
        Command::Serve(command) => command.run(),
        Command::Demo(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Topic(command) => command.run(),
        Command::Produce(command) => command.run(),
        Command::Tail(command) => command.run(),
        Command::Send(args) => return send::run(args),
        Command::Upstream(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Repair(command) => command.run(),
        Command::Backup(command) => command.run(),
        Command::Restore(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Bench(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}
