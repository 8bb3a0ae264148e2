//! What dom0 asks a qube to run. Reference: `parse_qubes_rpc_command` in `libqrexec/exec.c` of qubes-core-qrexec.

use alloc::string::String;
use core::fmt;

/// One call of dom0's, or of another qube's that dom0's policy allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// As whom to run it on a system with users.
    pub user: String,
    /// What to run.
    pub request: Request,
    /// There are no streams, and nobody waits for the end: the exit code 0 was sent already.
    pub is_just_exec: bool,
}

/// What a call is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A service.
    Service {
        /// Its name: `qubes.SetDateTime`.
        name: String,
        /// What comes after the `+`, if there is one.
        argument: Option<String>,
        /// The name of the qube that calls.
        source: String,
    },
    /// A command line for a shell.
    CommandLine(String),
}

impl Call {
    /// The service's name, unless it is a command line.
    pub fn service(&self) -> Option<&str> {
        match &self.request {
            Request::Service { name, .. } => Some(name),
            Request::CommandLine(_) => None,
        }
    }

    /// Reads a command line of a message: `USER:` and perhaps `nogui:` before `QUBESRPC SERVICE+ARGUMENT SOURCE`, or before
    /// a line for a shell.
    ///
    /// # Errors
    ///
    /// Where it is none of these.
    pub fn parse(line: &str, is_just_exec: bool) -> Result<Call, BadCommand> {
        let (user, command) = line.split_once(':').ok_or(BadCommand::NoUser)?;
        let command = command.strip_prefix("nogui:").unwrap_or(command);
        let request = match command.strip_prefix("QUBESRPC") {
            None => Request::CommandLine(command.into()),
            Some(rest) => service(rest)?,
        };
        Ok(Call { user: user.into(), request, is_just_exec })
    }
}

fn service(rest: &str) -> Result<Request, BadCommand> {
    let rest = rest.strip_prefix(' ').ok_or(BadCommand::NoService)?;
    let (descriptor, rest) = rest.split_once(' ').ok_or(BadCommand::NoSource)?;
    let (name, argument) = match descriptor.split_once('+') {
        Some((name, argument)) => (name, Some(argument.into())),
        None => (descriptor, None),
    };
    let source = rest.split(' ').next().unwrap_or_default();
    match (name.is_empty(), source.is_empty()) {
        (true, _) => Err(BadCommand::NoService),
        (_, true) => Err(BadCommand::NoSource),
        _ => Ok(Request::Service { name: name.into(), argument, source: source.into() }),
    }
}

/// A command line that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadCommand {
    /// No user before a colon.
    NoUser,
    /// No service after `QUBESRPC`.
    NoService,
    /// No name of the qube that calls.
    NoSource,
}

impl fmt::Display for BadCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadCommand::NoUser => "no user before a colon",
            BadCommand::NoService => "no service after QUBESRPC",
            BadCommand::NoSource => "no calling qube after the service",
        })
    }
}

impl core::error::Error for BadCommand {}

/// How a service has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(pub u32);

impl ExitCode {
    /// All is well.
    pub const SUCCESS: ExitCode = ExitCode(0);
    /// The service has failed.
    pub const FAILURE: ExitCode = ExitCode(1);
    /// Something is wrong with qrexec itself: too many calls, or a command that cannot be read.
    pub const PROBLEM: ExitCode = ExitCode(125);
    /// The call is refused.
    pub const REFUSED: ExitCode = ExitCode(126);
    /// There is no such service here.
    pub const NOT_FOUND: ExitCode = ExitCode(127);
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
