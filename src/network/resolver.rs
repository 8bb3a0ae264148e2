//! Names' addresses, asked of DNS servers and remembered.

mod answer;
mod cache;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::net::IpAddr;

use domain::base::iana::Rcode;
use domain::base::name::NameBuilder;
use embassy_net::tcp::TcpSocket;
use embassy_net::udp::{PacketMetadata, UdpSocket};
use embassy_net::{IpAddress, IpEndpoint};
use embassy_time::{Duration, Instant, with_timeout};
use xen_hal::Clock;
use xen_ring::WaitQueue;

use self::answer::{Answer, DnsName, Family, UDP_PAYLOAD, question, read};
use self::cache::{Cache, Known};
use super::Stack;
use crate::App;

/// How long each server has for its answer, in one round after the other.
const TIMEOUTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(5)];
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a question waits for others, of which one is asked at a time.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers that are asked.
const MAX_SERVERS: usize = 4;
/// Names that are asked for one after the other, where servers do not follow aliases themselves.
const MAX_QUESTIONS: usize = 8;
/// Wrong answers until a question is asked by TCP: somebody tries to guess the right one (RFC 5452, 9.3).
const MAX_WRONG: u32 = 64;
/// Bytes of an answer by TCP.
const MAX_TCP_ANSWER: usize = 16 << 10;
const PORT: u16 = 53;
const FIRST_LOCAL_PORT: u16 = 1024;

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolveError {
    /// What was asked for can be no name.
    InvalidName {
        /// What was asked for.
        name: Box<str>,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The network has no DNS server: neither its command line nor DHCP nor a router has named one.
    NoServer,
    /// There is no such name (NXDOMAIN).
    NoSuchName(Box<str>),
    /// There is such a name, without addresses.
    NoAddress(Box<str>),
    /// No server has answered in time.
    TimedOut(Box<str>),
    /// No server gives an answer.
    Refused {
        /// The name.
        name: Box<str>,
        /// The server that was asked last.
        server: IpAddr,
        /// Its response code (RFC 1035, 4.1.1): 2 is SERVFAIL, 5 REFUSED.
        rcode: u8,
    },
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::InvalidName { name, reason } => write!(f, "{name:?} is no host name: {reason}"),
            ResolveError::NoServer => f.write_str("the network has no DNS server (dns= on the command line, or DHCP)"),
            ResolveError::NoSuchName(name) => write!(f, "{name}: no such name (NXDOMAIN)"),
            ResolveError::NoAddress(name) => write!(f, "{name}: the name has no address"),
            ResolveError::TimedOut(name) => write!(f, "{name}: no DNS server has answered in time"),
            ResolveError::Refused { name, server, rcode } => {
                match Rcode::checked_from_int(*rcode).and_then(Rcode::to_mnemonic_str) {
                    Some(text) => write!(f, "{name}: the DNS server {server} says {text}"),
                    None => write!(f, "{name}: the DNS server {server} says {rcode}"),
                }
            }
        }
    }
}

impl core::error::Error for ResolveError {}

/// Finds names' addresses, as the network's DNS servers tell them, and remembers them for as long as the servers say, up
/// to 256 of them. Clones are the same one.
#[derive(Clone)]
pub struct Resolver(Rc<Shared>);

struct Shared {
    stack: Stack,
    random: RefCell<Box<dyn FnMut() -> u64>>,
    cache: RefCell<Cache>,
    /// Names that are being asked for.
    lookups: RefCell<BTreeMap<Rc<str>, Rc<Lookup>>>,
    turns: Turns,
}

/// A name that somebody asks for, and others wait for.
#[derive(Default)]
struct Lookup {
    over: Cell<bool>,
    /// `None` where it was given up.
    outcome: RefCell<Option<Result<Vec<IpAddr>, ResolveError>>>,
    waiting: WaitQueue,
}

/// Whoever asks for all who want to know. Where it is dropped before, another one asks.
struct Leader<'a> {
    shared: &'a Shared,
    name: Rc<str>,
    lookup: Rc<Lookup>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.shared.lookups.borrow_mut().remove(&self.name);
        self.lookup.over.set(true);
        self.lookup.waiting.wake_all();
    }
}

/// One asks at a time: so many questions take no more than one socket.
#[derive(Default)]
struct Turns {
    taken: Cell<bool>,
    waiting: WaitQueue,
}

struct Turn<'a>(&'a Turns);

impl Turns {
    async fn next(&self) -> Turn<'_> {
        self.waiting.wait_until(|| (!self.taken.replace(true)).then(|| Turn(self))).await
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        self.0.waiting.wake_all();
    }
}

/// What is asked of one family of addresses.
struct Line {
    family: Family,
    /// What was found.
    known: Option<Known>,
    /// The name, or the last of those that it stands for, and how many seconds that holds.
    name: DnsName,
    seconds: u32,
    /// What the server says to the latest question.
    answer: Option<Answer>,
    /// No server has given an answer.
    failed: bool,
    /// The last of those that have said so.
    refused: Option<(IpAddr, Rcode)>,
    id: u16,
    edns: bool,
    /// It waits for the server's answer.
    pending: bool,
    /// It is to be asked by TCP.
    truncated: bool,
}

impl Line {
    fn is_open(&self) -> bool {
        self.known.is_none() && self.answer.is_none() && !self.failed
    }

    fn question(&self) -> Vec<u8> {
        question(self.id, &self.name, self.family, self.edns)
    }

    /// Takes what the server `server` says.
    fn take(&mut self, answer: Answer, server: IpAddress) {
        (self.pending, self.truncated) = (false, false);
        match answer {
            Answer::Refused(rcode) => self.refused = Some((server.into(), rcode)),
            answer => self.answer = Some(answer),
        }
    }
}

impl App {
    /// A resolver for a stack. Its questions carry numbers of the processor's random numbers.
    pub fn resolver(&self, stack: Stack) -> Resolver {
        use rand_core::TryRng;
        let (mut entropy, clock, mut state) = (self.entropy().ok(), self.clock(), self.seed());
        Resolver::new(stack, move || {
            // Where the processor has none, it is the time of each question that a stranger has to guess.
            state = mix(state ^ clock.now().as_nanos() as u64);
            state ^ entropy.as_mut().and_then(|entropy| entropy.try_next_u64().ok()).unwrap_or(0)
        })
    }
}

/// The generator SplitMix64.
fn mix(state: u64) -> u64 {
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

impl Resolver {
    /// A resolver that takes its numbers from `random`: whoever can predict them can answer in a server's name.
    /// [`App::resolver`] makes one with the processor's.
    pub fn new(stack: Stack, random: impl FnMut() -> u64 + 'static) -> Resolver {
        Resolver(Rc::new(Shared {
            stack,
            random: RefCell::new(Box::new(random)),
            cache: RefCell::default(),
            lookups: RefCell::default(),
            turns: Turns::default(),
        }))
    }

    /// The addresses of a name such as `www.example.org`, at least one: those of IPv6 first where the network has an
    /// address of IPv6, and last otherwise. An address in text form is its own, and nobody is asked.
    ///
    /// A name is asked for once, however many wait for it. Each server has 1 s for its answer, then 3 and 5.
    ///
    /// # Errors
    ///
    /// Where there is no address, or no answer.
    ///
    /// # Cancellation
    ///
    /// May be dropped at any time. Where others wait for the same name, one of them asks again.
    ///
    /// # Examples
    ///
    /// ```
    /// use sarab::App;
    /// use sarab::network::stack::tcp::TcpSocket;
    ///
    /// async fn connect(app: App, socket: &mut TcpSocket<'_>) -> sarab::Result {
    ///     let network = app.network("vif").await?;
    ///     for address in network.resolve("www.example.org").await? {
    ///         if socket.connect((address, 80)).await.is_ok() {
    ///             return Ok(());
    ///         }
    ///     }
    ///     sarab::bail!("www.example.org does not accept connections")
    /// }
    /// ```
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let shared = &*self.0;
        let name = host_name(name)?;
        loop {
            if let Some(outcome) = shared.known(&name) {
                return outcome;
            }
            let running = shared.lookups.borrow().get(&name).cloned();
            if let Some(lookup) = running {
                lookup.waiting.wait_until(|| lookup.over.get().then_some(())).await;
                if let Some(outcome) = &*lookup.outcome.borrow() {
                    return outcome.clone();
                }
                continue;
            }
            let lookup = Rc::<Lookup>::default();
            shared.lookups.borrow_mut().insert(name.clone(), lookup.clone());
            let leader = Leader { shared, name: name.clone(), lookup };
            let outcome = shared.look_up(&name).await;
            leader.lookup.outcome.replace(Some(outcome.clone()));
            return outcome;
        }
    }

    /// Forgets what servers have said.
    pub fn clear(&self) {
        self.0.cache.borrow_mut().clear();
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("cache", &self.0.cache.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    fn random(&self) -> u64 {
        (self.random.borrow_mut())()
    }

    /// The DNS servers of the stack's configuration.
    fn servers(&self) -> Vec<IpAddress> {
        let v4 = self.stack.config_v4().into_iter().flat_map(|config| config.dns_servers).map(IpAddress::Ipv4);
        let v6 = self.stack.config_v6().into_iter().flat_map(|config| config.dns_servers).map(IpAddress::Ipv6);
        v4.chain(v6).filter(|server| !server.is_unspecified() && !server.is_multicast()).take(MAX_SERVERS).collect()
    }

    /// The families in the order in which their addresses are of use.
    fn families(&self) -> [Family; 2] {
        let local = |config: embassy_net::StaticConfigV6| config.address.address().is_unicast_link_local();
        match self.stack.config_v6().is_some_and(|config| !local(config)) {
            true => [Family::V6, Family::V4],
            false => [Family::V4, Family::V6],
        }
    }

    /// What is remembered of a name, where that is all that there is to know.
    fn known(&self, name: &Rc<str>) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        let now = Instant::now();
        let mut cache = self.cache.borrow_mut();
        let [first, second] = self.families().map(|family| cache.get(name, family, now));
        match (&first, &second) {
            // Of a name that is not there both families know.
            (Some(Known::NoName), _) | (_, Some(Known::NoName)) | (Some(_), Some(_)) => {
                Some(outcome(name, [first, second], None))
            }
            _ => None,
        }
    }

    /// Asks for what is not known of a name.
    async fn look_up(&self, name: &Rc<str>) -> Result<Vec<IpAddr>, ResolveError> {
        let servers = self.servers();
        if servers.is_empty() {
            return Err(ResolveError::NoServer);
        }
        let timed_out = || ResolveError::TimedOut((**name).into());
        let _turn = with_timeout(TURN_TIMEOUT, self.turns.next()).await.map_err(|_| timed_out())?;
        let now = Instant::now();
        let mut lines = self.families().map(|family| Line {
            family,
            known: self.cache.borrow_mut().get(name, family, now),
            name: dns_name(name),
            seconds: u32::MAX,
            answer: None,
            failed: false,
            refused: None,
            id: 0,
            edns: true,
            pending: false,
            truncated: false,
        });
        for _ in 0..MAX_QUESTIONS {
            self.ask(&servers, &mut lines).await?;
            let mut again = false;
            for line in &mut lines {
                let (known, seconds) = match line.answer.take() {
                    None => {
                        line.failed = line.known.is_none();
                        continue;
                    }
                    Some(Answer::Addresses(addresses, seconds)) => (Known::Addresses(addresses.into()), seconds),
                    Some(Answer::NoAddress(seconds)) => (Known::NoAddress, seconds),
                    Some(Answer::NoName(seconds)) => (Known::NoName, seconds),
                    Some(Answer::Alias(other, seconds)) => {
                        (line.name, line.seconds) = (other, line.seconds.min(seconds));
                        again = true;
                        continue;
                    }
                    Some(Answer::Refused(_) | Answer::Truncated) => continue,
                };
                let seconds = seconds.min(line.seconds);
                self.cache.borrow_mut().put(name, line.family, known.clone(), seconds, Instant::now());
                line.known = Some(known);
            }
            if !again {
                break;
            }
        }
        let refused = lines.iter().filter(|line| line.known.is_none()).find_map(|line| line.refused);
        outcome(name, lines.map(|line| line.known), refused)
    }

    /// Asks the servers in turn until all open lines have an answer, or no server has one.
    async fn ask(&self, servers: &[IpAddress], lines: &mut [Line; 2]) -> Result<(), ResolveError> {
        for time in TIMEOUTS {
            let mut silent = false;
            for server in servers {
                if !lines.iter().any(Line::is_open) {
                    return Ok(());
                }
                silent |= self.ask_server(*server, lines, time).await?;
            }
            // What servers have refused they refuse again.
            if !silent {
                break;
            }
        }
        Ok(())
    }

    /// Asks a server what is open. Whether it has said nothing to something.
    async fn ask_server(&self, server: IpAddress, lines: &mut [Line; 2], time: Duration) -> Result<bool, ResolveError> {
        let mut silent = with_timeout(time, self.ask_by_udp(server, lines)).await.unwrap_or(Ok(true))?;
        if lines.iter().any(|line| line.truncated) {
            silent |= with_timeout(TCP_TIMEOUT, self.ask_by_tcp(server, lines)).await.unwrap_or(Ok(true))?;
        }
        for line in lines {
            (line.pending, line.truncated) = (false, false);
        }
        Ok(silent)
    }

    async fn ask_by_udp(&self, server: IpAddress, lines: &mut [Line; 2]) -> Result<bool, ResolveError> {
        let mut metadata = [[PacketMetadata::EMPTY; 16]; 2];
        let [incoming, outgoing] = &mut metadata;
        let (mut received, mut sent) = (vec![0; 4 * usize::from(UDP_PAYLOAD)], vec![0; 1024]);
        let mut socket = UdpSocket::new(self.stack, incoming, &mut received, outgoing, &mut sent);
        // A port that a stranger has to guess, too (RFC 5452). One that the application has is not answered, and the
        // next round has another.
        let ports = u64::from(u16::MAX - FIRST_LOCAL_PORT) + 1;
        let local = FIRST_LOCAL_PORT + (self.random() % ports) as u16;
        if socket.bind(local).is_err() {
            return Ok(true);
        }
        let server = IpEndpoint::new(server, PORT);
        for line in lines.iter_mut().filter(|line| line.is_open()) {
            (line.id, line.edns, line.pending) = (self.random() as u16, true, true);
            if socket.send_to(&line.question(), server).await.is_err() {
                // No way leads to it.
                return Ok(true);
            }
        }
        let mut message = vec![0; UDP_PAYLOAD.into()];
        let mut wrong = 0;
        while lines.iter().any(|line| line.pending) {
            let Ok((len, from)) = socket.recv_from(&mut message).await else { continue };
            let pending = lines.iter_mut().filter(|line| line.pending && from.endpoint == server);
            let answered = pending
                .filter_map(|line| Some((read(&message[..len], line.id, &line.name, line.family)?, line)))
                .next();
            match answered {
                None => {
                    wrong += 1;
                    if wrong > MAX_WRONG {
                        lines.iter_mut().filter(|line| line.pending).for_each(|line| line.truncated = true);
                        return Ok(false);
                    }
                }
                Some((Answer::Truncated, line)) => (line.pending, line.truncated) = (false, true),
                // An old server.
                Some((Answer::Refused(Rcode::FORMERR | Rcode::NOTIMP), line)) if line.edns => {
                    line.edns = false;
                    line.id = self.random() as u16;
                    if socket.send_to(&line.question(), server).await.is_err() {
                        return Ok(true);
                    }
                }
                Some((answer, line)) => line.take(answer, server.addr),
            }
        }
        Ok(false)
    }

    async fn ask_by_tcp(&self, server: IpAddress, lines: &mut [Line; 2]) -> Result<bool, ResolveError> {
        let (mut received, mut sent) = (vec![0; 4096], vec![0; 1024]);
        let mut socket = TcpSocket::new(self.stack, &mut received, &mut sent);
        if socket.connect((server, PORT)).await.is_err() {
            return Ok(true);
        }
        for line in lines.iter_mut().filter(|line| line.truncated) {
            line.id = self.random() as u16;
            let Some(message) = exchange(&mut socket, &line.question()).await else { return Ok(true) };
            let answer = match read(&message, line.id, &line.name, line.family) {
                None | Some(Answer::Truncated) => Answer::Refused(Rcode::FORMERR),
                Some(answer) => answer,
            };
            line.take(answer, server);
        }
        socket.close();
        // It ends the connection as it should, unless it takes long.
        let _ = with_timeout(Duration::from_millis(100), socket.flush()).await;
        Ok(false)
    }
}

/// Sends a message and receives another, each after its length (RFC 1035, 4.2.2). `None` where the connection ends, or
/// the answer is longer than any should be.
async fn exchange(socket: &mut TcpSocket<'_>, question: &[u8]) -> Option<Vec<u8>> {
    let mut message = Vec::from((question.len() as u16).to_be_bytes());
    message.extend(question);
    let mut rest = &message[..];
    while !rest.is_empty() {
        let sent = socket.write(rest).await.ok()?;
        rest = &rest[sent..];
    }
    let mut len = [0; 2];
    receive(socket, &mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > MAX_TCP_ANSWER {
        return None;
    }
    let mut answer = vec![0; len];
    receive(socket, &mut answer).await?;
    Some(answer)
}

async fn receive(socket: &mut TcpSocket<'_>, mut bytes: &mut [u8]) -> Option<()> {
    while !bytes.is_empty() {
        let len = socket.read(bytes).await.ok().filter(|len| *len > 0)?;
        bytes = &mut bytes[len..];
    }
    Some(())
}

/// What is to be said of a name of which so much is known.
fn outcome(
    name: &str,
    known: [Option<Known>; 2],
    refused: Option<(IpAddr, Rcode)>,
) -> Result<Vec<IpAddr>, ResolveError> {
    let addresses: Vec<IpAddr> = known
        .iter()
        .flatten()
        .flat_map(|known| if let Known::Addresses(addresses) = known { &**addresses } else { &[] })
        .copied()
        .collect();
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    if known.contains(&Some(Known::NoName)) {
        return Err(ResolveError::NoSuchName(name.into()));
    }
    match refused {
        _ if known.iter().all(Option::is_some) => Err(ResolveError::NoAddress(name.into())),
        Some((server, rcode)) => Err(ResolveError::Refused { name: name.into(), server, rcode: rcode.to_int() }),
        None => Err(ResolveError::TimedOut(name.into())),
    }
}

/// A name in lower case, without a full stop at its end, where it can be a host's.
fn host_name(text: &str) -> Result<Rc<str>, ResolveError> {
    let invalid = |reason| {
        let shown: String = text.chars().take(64).collect();
        Err(ResolveError::InvalidName { name: shown.into(), reason })
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return invalid("it is empty");
    }
    if name.len() > 253 {
        return invalid("it is longer than 253 characters");
    }
    if !name.is_ascii() {
        return invalid("it is not ASCII; the form for DNS begins with xn--");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return invalid("it has a part of no characters");
        }
        if label.len() > 63 {
            return invalid("a part of it is longer than 63 characters");
        }
        if label.bytes().any(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))) {
            return invalid("letters, digits, '-', '_' and '.' are allowed");
        }
    }
    // No top-level domain is a number: somebody means an address.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return invalid("it ends in a number, but is no IPv4 address");
    }
    Ok(name.to_ascii_lowercase().into())
}

/// The same as it is sent.
fn dns_name(name: &str) -> DnsName {
    let mut builder = NameBuilder::new_vec();
    for label in name.split('.') {
        builder.append_label(label.as_bytes()).expect("a host's name was checked");
    }
    builder.into_name().expect("a host's name was checked")
}

/// What the fuzz target uses.
#[doc(hidden)]
pub mod fuzzing {
    pub use super::answer::{Answer, DnsName, Family, read};

    /// A name as it is sent, which has to be a good one.
    pub fn dns_name(name: &str) -> DnsName {
        super::dns_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn what_is_no_name_is_told_why() {
        for (text, reason) in [
            ("", "it is empty"),
            (".", "it is empty"),
            ("a..b", "it has a part of no characters"),
            (".a", "it has a part of no characters"),
            ("http://example.org/", "letters, digits, '-', '_' and '.' are allowed"),
            ("www example", "letters, digits, '-', '_' and '.' are allowed"),
            ("bücher.example", "it is not ASCII; the form for DNS begins with xn--"),
            ("10.0.0.256", "it ends in a number, but is no IPv4 address"),
            ("a\0b", "letters, digits, '-', '_' and '.' are allowed"),
        ] {
            let Err(ResolveError::InvalidName { reason: found, .. }) = host_name(text) else { panic!("{text:?}") };
            assert_eq!(found, reason, "{text:?}");
        }
        assert!(host_name(&"a".repeat(64)).is_err() && host_name(&"a.".repeat(127)).is_ok());
        assert!(host_name(&"ab.".repeat(85)).is_err());
        for (text, name) in [("WWW.Example.org.", "www.example.org"), ("_x-1.a", "_x-1.a"), ("host", "host")] {
            assert_eq!(&*host_name(text).unwrap(), name);
            assert_eq!(dns_name(name).to_string(), name);
        }
        let longest = "a".repeat(63) + "." + &"b".repeat(63) + "." + &"c".repeat(63) + "." + &"d".repeat(61);
        assert_eq!(dns_name(&host_name(&longest).unwrap()).len(), 255);
    }

    #[test]
    fn errors_say_what_to_do() {
        let name = || "www.example.org".into();
        let server = IpAddr::from([10, 0, 0, 1]);
        for (error, text) in [
            (host_name("a b").unwrap_err(), "\"a b\" is no host name: letters, digits, '-', '_' and '.' are allowed"),
            (ResolveError::NoServer, "the network has no DNS server (dns= on the command line, or DHCP)"),
            (ResolveError::NoSuchName(name()), "www.example.org: no such name (NXDOMAIN)"),
            (ResolveError::NoAddress(name()), "www.example.org: the name has no address"),
            (ResolveError::TimedOut(name()), "www.example.org: no DNS server has answered in time"),
            (
                ResolveError::Refused { name: name(), server, rcode: 2 },
                "www.example.org: the DNS server 10.0.0.1 says SERVFAIL",
            ),
            (
                ResolveError::Refused { name: name(), server, rcode: 15 },
                "www.example.org: the DNS server 10.0.0.1 says 15",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }
}
