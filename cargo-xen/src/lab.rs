//! `cargo xen lab exec`: dom0's commands beside a guest that runs.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use xen_lab::running::{self, Running};
use xen_lab::{Dom0, Stream};

/// The command-line arguments.
#[derive(clap::Args)]
pub struct ExecArgs {
    /// The process that has booted the lab, where several labs run
    #[arg(long, value_name = "PROCESS")]
    lab: Option<u32>,
    /// The command and its arguments. One argument alone is a line for dom0's shell: 'xl list | wc -l'
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command; its exit status is the program's own.
pub fn exec(args: &ExecArgs) -> Result<ExitCode> {
    let lab = choose(running::all()?, args.lab)?;
    let stdin: Option<Box<dyn Read + Send>> = match io::stdin().is_terminal() {
        true => None,
        false => Some(Box::new(io::stdin())),
    };
    let mut stream = lab.agent.stream(&line(&args.command), stdin)?;
    copy(stream.as_mut(), &mut io::stdout().lock())
}

fn copy(stream: &mut dyn Stream, out: &mut impl Write) -> Result<ExitCode> {
    while let Some(bytes) = stream.read()? {
        out.write_all(&bytes)?;
        out.flush()?;
    }
    Ok(ExitCode::from(u8::try_from(stream.status()?).unwrap_or(1)))
}

fn choose(mut labs: Vec<Running>, process: Option<u32>) -> Result<Running> {
    let list = |labs: &[Running]| {
        let names = labs.iter().map(|lab| format!("{} ({})", lab.process, lab.name));
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(process) = process {
        return match labs.iter().position(|lab| lab.process == process) {
            Some(at) => Ok(labs.swap_remove(at)),
            None if labs.is_empty() => bail!("--lab {process}: no lab is running"),
            None => bail!("--lab {process}: no such lab; running: {}", list(&labs)),
        };
    }
    match labs.len() {
        0 => bail!("no lab is running: start a guest in another terminal with `cargo xen run`"),
        1 => Ok(labs.remove(0)),
        _ => bail!("several labs are running: choose one with --lab PROCESS: {}", list(&labs)),
    }
}

/// The line for dom0's shell.
fn line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "),
    }
}

/// A word for a shell.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_argument_is_a_line_and_several_are_arguments() {
        let words = |words: &[&str]| line(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(&["xl list | wc -l"]), "xl list | wc -l");
        assert_eq!(words(&["echo", "it's", "a  b"]), r"'echo' 'it'\''s' 'a  b'");
    }

    #[test]
    fn without_a_lab_it_says_what_to_do() {
        assert!(choose(Vec::new(), None).err().unwrap().to_string().contains("`cargo xen run`"));
        assert!(choose(Vec::new(), Some(7)).err().unwrap().to_string().contains("--lab 7: no lab is running"));
    }
}
