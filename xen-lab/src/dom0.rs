//! Where `xl` is: the lab's dom0, this machine, or another one over ssh.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A place to run shell commands as dom0's root.
pub trait Dom0 {
    /// Starts a command; its output and errors come as one stream. Without `stdin` it reads nothing.
    ///
    /// # Errors
    ///
    /// Where dom0 cannot be reached.
    fn stream(&self, command: &str, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>>;

    /// The bridge that guests go on, where it is not the toolstack's default.
    fn bridge(&self) -> Option<&str> {
        None
    }

    /// Runs a command to its end and returns what it printed.
    ///
    /// # Errors
    ///
    /// Where it fails: with what it printed.
    fn run(&self, command: &str) -> Result<String> {
        let (status, output) = self.try_run(command)?;
        ensure!(status == 0, "in dom0, `{command}` failed with status {status}:\n{}", output.trim_end());
        Ok(output)
    }

    /// Runs a command to its end and returns its status and what it printed.
    ///
    /// # Errors
    ///
    /// Where dom0 cannot be reached.
    fn try_run(&self, command: &str) -> Result<(i32, String)> {
        let mut stream = self.stream(command, None)?;
        let mut output = Vec::new();
        while let Some(bytes) = stream.read()? {
            output.extend(bytes);
        }
        Ok((stream.status()?, String::from_utf8_lossy(&output).into_owned()))
    }

    /// Writes a file in dom0.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    fn put(&self, path: &str, data: Box<dyn Read + Send>) -> Result<()> {
        let mut stream = self.stream(&format!("cat > '{path}'"), Some(data))?;
        let mut output = Vec::new();
        while let Some(bytes) = stream.read()? {
            output.extend(bytes);
        }
        ensure!(stream.status()? == 0, "cannot write {path} in dom0: {}", String::from_utf8_lossy(&output).trim());
        Ok(())
    }
}

/// The output of a command that runs.
pub trait Stream {
    /// What has come, at once: not a whole line. `None` at the end.
    ///
    /// # Errors
    ///
    /// Where the connection breaks, or nothing comes for longer than the lab's timeout.
    fn read(&mut self) -> Result<Option<Vec<u8>>>;

    /// The exit status, once [`Stream::read`] has returned `None`.
    ///
    /// # Errors
    ///
    /// Where there is none: the connection broke.
    fn status(&mut self) -> Result<i32>;
}

/// This machine is dom0.
#[derive(Clone, Copy, Debug)]
pub struct Local;

/// Another machine is dom0: everything goes through the `ssh` program.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// The host, as `ssh` takes it.
    pub destination: String,
}

impl Dom0 for Local {
    fn stream(&self, command: &str, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec 2>&1; {command}")]);
        start(shell, stdin)
    }
}

impl Dom0 for Ssh {
    fn stream(&self, command: &str, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>> {
        let mut ssh = Command::new("ssh");
        ssh.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "--", &self.destination]);
        ssh.arg(format!("exec 2>&1; {command}"));
        start(ssh, stdin)
    }
}

fn start(mut command: Command, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdout(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    // Ctrl-C of a terminal goes to all of its foreground group: what it ends is for the program to say.
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("cannot start `{program}`"))?;
    if let (Some(mut data), Some(mut pipe)) = (stdin, child.stdin.take()) {
        std::thread::spawn(move || std::io::copy(&mut data, &mut pipe));
    }
    let output = child.stdout.take().expect("stdout is piped");
    Ok(Box::new(Process { child, output }))
}

struct Process {
    child: Child,
    output: ChildStdout,
}

impl Stream for Process {
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0; 16 << 10];
        let count = loop {
            match self.output.read(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        bytes.truncate(count);
        Ok((count > 0).then_some(bytes))
    }

    fn status(&mut self) -> Result<i32> {
        Ok(self.child.wait()?.code().unwrap_or(128))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
