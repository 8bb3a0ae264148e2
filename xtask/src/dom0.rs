//! Where `xl` is: the lab's dom0, this machine, or another one over ssh. What is above does not care which.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A place to run shell commands as dom0's root.
pub trait Dom0 {
    /// Starts a command; its output and errors come as lines. Without `stdin` it reads nothing.
    fn stream(&self, command: &str, stdin: Option<Box<dyn Read + Send>>) -> Result<Box<dyn Stream>>;

    /// The bridge that guests go on, where it is not the toolstack's default.
    fn bridge(&self) -> Option<&str> {
        None
    }

    /// Runs a command to its end and returns what it printed; an error where it fails.
    fn run(&self, command: &str) -> Result<String> {
        let (status, output) = self.try_run(command)?;
        ensure!(status == 0, "in dom0, `{command}` failed with status {status}:\n{}", output.trim_end());
        Ok(output)
    }

    /// Runs a command to its end and returns its status and what it printed.
    fn try_run(&self, command: &str) -> Result<(i32, String)> {
        let mut stream = self.stream(command, None)?;
        let mut output = Vec::new();
        while let Some(line) = stream.line()? {
            output.extend(line);
        }
        let text = String::from_utf8_lossy(&output).into_owned();
        Ok((stream.status()?, text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)))
    }

    /// Writes a file in dom0.
    fn put(&self, path: &str, data: Box<dyn Read + Send>) -> Result<()> {
        let mut stream = self.stream(&format!("cat > '{path}'"), Some(data))?;
        let mut output = Vec::new();
        while let Some(line) = stream.line()? {
            output.extend(line);
        }
        ensure!(stream.status()? == 0, "cannot write {path} in dom0: {}", String::from_utf8_lossy(&output).trim());
        Ok(())
    }
}

/// The output of a command that runs.
pub trait Stream {
    /// The next line with its line feed, `None` at the end.
    fn line(&mut self) -> Result<Option<Vec<u8>>>;

    /// The exit status, once [`Stream::line`] has returned `None`.
    fn status(&mut self) -> Result<i32>;
}

/// This machine is dom0.
pub struct Local;

/// Another machine is dom0: everything goes through the `ssh` program.
pub struct Ssh {
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
    let mut child = command.spawn().with_context(|| format!("cannot start `{program}`"))?;
    if let (Some(mut data), Some(mut pipe)) = (stdin, child.stdin.take()) {
        std::thread::spawn(move || std::io::copy(&mut data, &mut pipe));
    }
    let reader = BufReader::new(child.stdout.take().expect("stdout is piped"));
    Ok(Box::new(Process { child, reader }))
}

struct Process {
    child: Child,
    reader: BufReader<std::process::ChildStdout>,
}

impl Stream for Process {
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        Ok((self.reader.read_until(b'\n', &mut line)? > 0).then_some(line))
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
