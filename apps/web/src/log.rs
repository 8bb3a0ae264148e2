//! The access log: a line for each answer, to the console or to a syslog server. It never waits: what cannot be written in
//! time is counted instead.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use core::cell::{Cell, RefCell};
use core::fmt::{self, Write};
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

use sarab::network::Stack;
use sarab::network::stack::IpEndpoint;
use sarab::network::stack::udp::{PacketMetadata, UdpSocket};
use sarab::platform::yield_now;
use sarab::ring::WaitQueue;
use sarab::{FromArg, println};
use sarab_http::{Exchange, HttpDate};

use crate::counters::Counters;

/// Where lines go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// The domain's console.
    Console,
    /// A syslog server (RFC 5424, RFC 5426).
    Syslog(SocketAddr),
}

/// The port of syslog servers.
const SYSLOG: u16 = 514;

impl FromArg for Sink {
    const EXPECTED: &'static str = "console, or udp: and the address of a syslog server such as udp:10.0.0.5:514";

    fn from_arg(value: Option<&'static str>) -> Option<Self> {
        let address = match value? {
            "console" => return Some(Sink::Console),
            value => value.strip_prefix("udp:")?,
        };
        let alone = || Some(SocketAddr::new(address.parse().ok()?, SYSLOG));
        let address = address.parse().ok().or_else(alone)?;
        Some(Sink::Syslog(address))
    }
}

/// Bytes of lines that wait to be written, and of one line.
const QUEUE: usize = 16 << 10;
const LINE: usize = 900;
/// Lines in a second, of which those of four may come at once.
const CONSOLE_RATE: u64 = 25;
const SYSLOG_RATE: u64 = 1000;
/// Local use 0, informational.
const PRIORITY: u8 = 16 * 8 + 6;

/// Lines that wait.
pub struct Log {
    sink: Sink,
    lines: RefCell<VecDeque<String>>,
    bytes: Cell<usize>,
    /// Lines that may be written, in thousandths, at this time.
    allowed: Cell<(u64, Duration)>,
    missed: Cell<u64>,
    changed: WaitQueue,
}

impl Log {
    pub fn new(sink: Sink) -> Log {
        let log = Log {
            sink,
            lines: RefCell::default(),
            bytes: Cell::new(0),
            allowed: Cell::default(),
            missed: Cell::new(0),
            changed: WaitQueue::new(),
        };
        log.allowed.set((log.rate() * 4000, Duration::ZERO));
        log
    }

    fn rate(&self) -> u64 {
        match self.sink {
            Sink::Console => CONSOLE_RATE,
            Sink::Syslog(_) => SYSLOG_RATE,
        }
    }

    /// Takes a line about an answer to a client, at this time since the start and of the day.
    pub fn add(&self, client: IpAddr, exchange: &Exchange<'_>, now: Duration, date: HttpDate, counters: &Counters) {
        let (allowed, since) = self.allowed.get();
        let passed = now.saturating_sub(since).as_millis().min(10_000) as u64;
        let allowed = (allowed + passed * self.rate()).min(self.rate() * 4000);
        if allowed < 1000 || self.bytes.get() + LINE > QUEUE {
            self.allowed.set((allowed, now));
            self.missed.set(self.missed.get() + 1);
            counters.unlogged();
            return;
        }
        self.allowed.set((allowed - 1000, now));
        counters.logged();
        if let missed @ 1.. = self.missed.take() {
            self.push(date, format_args!("{missed} requests were not logged"));
        }
        self.push(date, format_args!("{}", Line { client, exchange, date }));
    }

    fn push(&self, date: HttpDate, text: fmt::Arguments<'_>) {
        let mut line = match self.sink {
            Sink::Console => format!("web: {text}"),
            // What the domain is called is not for sure a name that others know it by.
            Sink::Syslog(_) => format!("<{PRIORITY}>1 {} - web - - - {text}", date.rfc3339()),
        };
        line.truncate(LINE);
        self.bytes.set(self.bytes.get() + line.len());
        self.lines.borrow_mut().push_back(line);
        self.changed.wake_all();
    }

    async fn next(&self) -> String {
        let line = self.changed.wait_until(|| self.lines.borrow_mut().pop_front()).await;
        self.bytes.set(self.bytes.get() - line.len());
        line
    }
}

/// Writes what is logged, for as long as the domain runs.
pub async fn write(log: Rc<Log>, stack: Stack) {
    let server = match log.sink {
        Sink::Console => loop {
            println!("{}", log.next().await);
            yield_now().await;
        },
        Sink::Syslog(server) => IpEndpoint::from(server),
    };
    let (mut incoming, mut outgoing) = (vec![0; 64], vec![0; 4 << 10]);
    let (mut from, mut to) = ([PacketMetadata::EMPTY; 1], [PacketMetadata::EMPTY; 8]);
    let mut socket = UdpSocket::new(stack, &mut from, &mut incoming, &mut to, &mut outgoing);
    if socket.bind(0).is_err() {
        println!("web: log: no port for the syslog client; nothing is logged");
        return;
    }
    let mut reported = false;
    loop {
        let line = log.next().await;
        // Once, as it may be so for each line.
        if let Err(error) = socket.send_to(line.as_bytes(), server).await
            && !core::mem::replace(&mut reported, true)
        {
            println!("web: log: cannot send to {server}: {error:?}; check log= and gw=");
        }
    }
}

/// A line in the combined format of Apache and nginx, and the seconds that it took.
struct Line<'a> {
    client: IpAddr,
    exchange: &'a Exchange<'a>,
    date: HttpDate,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exchange { request, status, bytes, took, .. } = *self.exchange;
        let field = |name| request.and_then(|request| request.fields.one(name)).unwrap_or("-");
        write!(
            f,
            "{} - - [{}] \"{}\" {status} {bytes} \"{}\" \"{}\" {}.{:03}",
            self.client.to_canonical(),
            self.date.common_log(),
            Escaped(request.map_or("-", |request| request.line), 300),
            Escaped(field("referer"), 200),
            Escaped(field("user-agent"), 200),
            took.as_secs(),
            took.subsec_millis()
        )
    }
}

/// A client's text, up to so many bytes of the log: what could end it, or do something to a terminal, is `\xHH`.
struct Escaped<'a>(&'a str, usize);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.1;
        for byte in self.0.bytes() {
            let (plain, len) = match byte {
                b' '..=b'~' if byte != b'"' && byte != b'\\' => (true, 1),
                _ => (false, 4),
            };
            if len > left {
                return f.write_str("...");
            }
            left -= len;
            if plain { f.write_char(byte.into())? } else { write!(f, "\\x{byte:02X}")? }
        }
        Ok(())
    }
}
