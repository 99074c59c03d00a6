//! How a command ends when it does not succeed.

use std::fmt;
use std::io;
use std::process::ExitCode;

use crate::config::ConfigError;

/// Why a command failed: an exit code and one line for standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// 1 it failed, 2 wrong use or configuration, 3 nothing there, 4 data damaged or lost.
    pub code: u8,
    /// Cause and what to try; empty when there is nothing to say.
    pub text: String,
}

impl Failure {
    /// It failed.
    pub fn failed(text: impl Into<String>) -> Self {
        Self {
            code: 1,
            text: text.into(),
        }
    }

    /// Wrong use or wrong configuration.
    pub fn usage(text: impl Into<String>) -> Self {
        Self {
            code: 2,
            text: text.into(),
        }
    }

    /// Nothing there: unknown topic, unreachable broker.
    pub fn absent(text: impl Into<String>) -> Self {
        Self {
            code: 3,
            text: text.into(),
        }
    }

    /// Data damaged or lost.
    pub fn damaged(text: impl Into<String>) -> Self {
        Self {
            code: 4,
            text: text.into(),
        }
    }

    /// Writing a result failed. A reader that has seen enough (`| head`) is no failure.
    pub fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self {
                code: 0,
                text: String::new(),
            },
            _ => Self::failed(format!("cannot write to standard output: {error}")),
        }
    }

    /// Says it on standard error and gives the code.
    pub fn exit(self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("headwater: {}", self.text);
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}
