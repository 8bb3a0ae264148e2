//! What of a run is shown: the guest's console, and beside it lines of others.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

/// The place where all of it goes, in whole lines as far as the console has some. Clones are the same.
#[derive(Clone)]
pub struct Screen(Arc<Mutex<State>>);

struct State {
    out: Box<dyn Write + Send>,
    /// What was shown last of the console was no whole line.
    in_line: bool,
    /// What waits for a line of the console.
    expected: Option<Expected>,
}

struct Expected {
    begin: String,
    /// The line that is coming, as far as it is of interest.
    line: Vec<u8>,
    action: Box<dyn FnOnce() + Send>,
}

impl Screen {
    /// Standard output.
    pub fn new() -> Screen {
        Screen::on(Box::new(io::stdout()))
    }

    fn on(out: Box<dyn Write + Send>) -> Screen {
        Screen(Arc::new(Mutex::new(State { out, in_line: false, expected: None })))
    }

    /// Does this once, when the console has shown a line that begins so.
    pub fn when(&self, begin: String, action: impl FnOnce() + Send + 'static) {
        self.state().expected = Some(Expected { begin, line: Vec::new(), action: Box::new(action) });
    }

    /// Shows what has come from the console.
    pub fn console(&self, bytes: &[u8]) -> io::Result<()> {
        let action = {
            let mut state = self.state();
            state.out.write_all(bytes)?;
            state.out.flush()?;
            if let Some(last) = bytes.last() {
                state.in_line = *last != b'\n';
            }
            let came = state.expected.as_mut().is_some_and(|expected| expected.has_come(bytes));
            if came { state.expected.take() } else { None }
        };
        if let Some(expected) = action {
            (expected.action)();
        }
        Ok(())
    }

    /// Shows lines of somebody else's, with its name before each.
    pub fn lines(&self, name: &str, text: &str) -> io::Result<()> {
        let mut state = self.state();
        if std::mem::take(&mut state.in_line) {
            writeln!(state.out)?;
        }
        for line in text.lines() {
            writeln!(state.out, "{}", format!("{name}: {line}").trim_end())?;
        }
        state.out.flush()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }
}

impl Expected {
    fn has_come(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            match byte {
                b'\n' if self.line == self.begin.as_bytes() => return true,
                b'\n' => self.line.clear(),
                // No more than decides it.
                _ if self.line.len() < self.begin.len() => self.line.push(*byte),
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::mpsc;

    use super::*;

    /// What a screen has shown.
    #[derive(Clone, Default)]
    pub struct Shown(Arc<Mutex<Vec<u8>>>);

    impl Shown {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        pub fn screen(&self) -> Screen {
            Screen::on(Box::new(self.clone()))
        }
    }

    impl Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_others_stand_alone() {
        let shown = Shown::default();
        let screen = shown.screen();
        screen.console(b"gate: re").unwrap();
        screen.lines("demo", "one\n\ntwo").unwrap();
        screen.console(b"ady\n").unwrap();
        screen.lines("demo", "three").unwrap();
        assert_eq!(shown.text(), "gate: re\ndemo: one\ndemo:\ndemo: two\nady\ndemo: three\n");
    }

    #[test]
    fn a_line_is_waited_for_however_it_comes() {
        let whole = b"a gate: ready\ngate: read\ngate: ready now\ngate: ready\n";
        for cut in 0..whole.len() {
            let (sender, came) = mpsc::channel();
            let screen = Shown::default().screen();
            screen.when("gate: ready".into(), move || sender.send(()).unwrap());
            screen.console(&whole[..cut]).unwrap();
            assert_eq!(came.try_recv().is_ok(), cut >= 41, "{cut}");
            screen.console(&whole[cut..]).unwrap();
            assert_eq!(came.try_iter().count(), usize::from(cut < 41), "{cut}: once");
        }
    }
}
