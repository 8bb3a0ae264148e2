//! A DHCP server with one address, that does what it is told to do wrong.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail, ensure};

const SERVER: u16 = 67;
const CLIENT: u16 = 68;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where the options begin, behind the cookie.
const OPTIONS: usize = 240;

// Message types (RFC 2132, section 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What the one client gets.
pub struct Lease {
    pub server: Ipv4Addr,
    pub address: Ipv4Addr,
    pub mask: Ipv4Addr,
    pub seconds: u32,
}

/// How a client is answered that renews what it has.
#[derive(Clone, Copy, PartialEq)]
enum Renewal {
    Ack,
    /// Without the router's address.
    Bare,
    Nak,
    /// Not at all.
    None,
}

/// Serves until it is ended, and prints each message and its answer.
pub fn serve(interface: &str, lease: &Lease, options: &[&str]) -> Result<()> {
    let (mut extra, mut renewal) = (Vec::new(), Renewal::Ack);
    for option in options {
        match option.split_once('=').with_context(|| format!("{option:?} has no value"))? {
            ("router", address) => extra.push((3, address.parse::<Ipv4Addr>()?.octets().to_vec())),
            ("routes", hex) => extra.push((121, bytes(hex)?)),
            ("renew", "ack") => renewal = Renewal::Ack,
            ("renew", "bare") => renewal = Renewal::Bare,
            ("renew", "nak") => renewal = Renewal::Nak,
            ("renew", "none") => renewal = Renewal::None,
            _ => bail!("unknown option {option:?}"),
        }
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SERVER)).context("the port of DHCP")?;
    socket.set_broadcast(true)?;
    // SAFETY: the name is as long as it says.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            interface.len() as u32,
        )
    };
    ensure!(outcome == 0, "{interface}: {}", std::io::Error::last_os_error());
    println!("serving {}", lease.address);
    let mut request = [0; 1500];
    loop {
        let length = socket.recv(&mut request)?;
        let Some(message) = Message::parse(&request[..length]) else { continue };
        let answer = message.answer(lease, renewal);
        println!(
            "{message}: {}",
            answer.map_or("nothing", |answer| ["offer", "", "", "ack", "nak"][usize::from(answer - OFFER)])
        );
        let Some(answer) = answer else { continue };
        let with = |option: &&(u8, Vec<u8>)| option.0 != 3 || !message.is_renewal() || renewal != Renewal::Bare;
        let bytes = message.reply(answer, lease, extra.iter().filter(with));
        // A client that has an address gets it there (RFC 2131, section 4.1), unless it is told to give it up.
        let to = if message.is_renewal() && answer == ACK { message.client } else { Ipv4Addr::BROADCAST };
        socket.send_to(&bytes, (to, CLIENT)).with_context(|| format!("answering {to}"))?;
    }
}

/// A client's message.
struct Message<'a> {
    bytes: &'a [u8],
    kind: u8,
    /// The address that the client uses already.
    client: Ipv4Addr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut options = bytes.get(OPTIONS..).filter(|_| bytes[0] == 1 && bytes[236..OPTIONS] == COOKIE)?;
        let mut message = Message { bytes, kind: 0, client: address(&bytes[12..16])?, requested: None, server: None };
        while let [code, rest @ ..] = options {
            let (value, rest) = match *code {
                0 => (&rest[..0], rest),
                255 => break,
                _ => rest.split_first().and_then(|(length, rest)| rest.split_at_checked((*length).into()))?,
            };
            match code {
                50 => message.requested = address(value),
                53 => message.kind = *value.first()?,
                54 => message.server = address(value),
                _ => {}
            }
            options = rest;
        }
        Some(message)
    }

    fn is_renewal(&self) -> bool {
        self.kind == REQUEST && !self.client.is_unspecified()
    }

    fn answer(&self, lease: &Lease, renewal: Renewal) -> Option<u8> {
        match self.kind {
            DISCOVER => Some(OFFER),
            REQUEST if self.is_renewal() => match renewal {
                Renewal::None => None,
                Renewal::Nak => Some(NAK),
                Renewal::Ack | Renewal::Bare => Some(if self.client == lease.address { ACK } else { NAK }),
            },
            REQUEST if self.server.is_some_and(|server| server != lease.server) => None,
            REQUEST => Some(if self.requested == Some(lease.address) { ACK } else { NAK }),
            _ => None,
        }
    }

    fn reply<'o>(&self, kind: u8, lease: &Lease, extra: impl Iterator<Item = &'o (u8, Vec<u8>)>) -> Vec<u8> {
        let mut reply = vec![0; OPTIONS];
        reply[..8].copy_from_slice(&[2, 1, 6, 0, self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]]);
        reply[10..12].copy_from_slice(&self.bytes[10..12]);
        reply[28..44].copy_from_slice(&self.bytes[28..44]);
        reply[236..].copy_from_slice(&COOKIE);
        let mut add = |code: u8, value: &[u8]| {
            reply.extend([code, value.len() as u8]);
            reply.extend(value);
        };
        add(53, &[kind]);
        add(54, &lease.server.octets());
        if kind != NAK {
            add(51, &lease.seconds.to_be_bytes());
            add(1, &lease.mask.octets());
            extra.for_each(|(code, value)| add(*code, value));
            let own = if self.is_renewal() { self.client } else { Ipv4Addr::UNSPECIFIED };
            reply[12..16].copy_from_slice(&own.octets());
            reply[16..20].copy_from_slice(&lease.address.octets());
        }
        reply.push(255);
        reply
    }
}

impl std::fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            DISCOVER => f.write_str("discover"),
            REQUEST if self.is_renewal() => write!(f, "renewal of {}", self.client),
            REQUEST => write!(f, "request for {}", self.requested.unwrap_or(Ipv4Addr::UNSPECIFIED)),
            kind => write!(f, "message of type {kind}"),
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes).ok()?.into())
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    ensure!(hex.len().is_multiple_of(2) && hex.is_ascii(), "{hex:?} is not in hexadecimal");
    (0..hex.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&hex[at..at + 2], 16)?)).collect()
}
