//! A log line names the line that has written it, and not the macro's.

use std::sync::Mutex;

use log::{LevelFilter, Log, Metadata, Record};
use xen_hal::{information, warning};

struct Places(Mutex<Vec<(String, u32)>>);

static PLACES: Places = Places(Mutex::new(Vec::new()));

impl Log for Places {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let place = (record.file().unwrap_or_default().to_owned(), record.line().unwrap_or_default());
        self.0.lock().unwrap().push(place);
    }

    fn flush(&self) {}
}

#[test]
fn a_line_names_its_own_file_and_line() {
    log::set_logger(&PLACES).unwrap();
    log::set_max_level(LevelFilter::Info);
    let first = line!() + 1;
    warning!("one {}", 1);
    information!("two {}", 2);
    let expected = [(file!().to_owned(), first), (file!().to_owned(), first + 1)];
    assert_eq!(*PLACES.0.lock().unwrap(), expected);
}
