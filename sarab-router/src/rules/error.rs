//! What can be wrong in a text.

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::net::IpAddr;

use sarab_net::IpCidr;

use super::rule::{Family, PortRange, Transport};

/// Characters of a word that a message repeats.
const MAX_FOUND: usize = 40;

/// What was found where something else was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A word, or the beginning of a long one.
    Word(Box<str>),
    /// Nothing more in this line.
    EndOfLine,
}

impl Found {
    pub(super) fn word(word: &str) -> Found {
        let mut shown: String =
            word.chars().take(MAX_FOUND).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        if shown.len() < word.len() {
            shown.push('…');
        }
        Found::Word(shown.into())
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Word(word) => write!(f, "`{word}`"),
            Found::EndOfLine => f.write_str("the end of the line"),
        }
    }
}

/// What is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is longer than [`MAX_TEXT`](super::MAX_TEXT).
    TextTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// There are more rules than [`MAX_RULES`](super::MAX_RULES).
    TooManyRules,
    /// There are more names to resolve than [`MAX_NAMES`](super::MAX_NAMES).
    TooManyNames,
    /// Another word belongs here.
    Expected {
        /// What can stand here.
        expected: &'static str,
        /// What does.
        found: Found,
    },
    /// No statement begins so.
    UnknownStatement {
        /// The word.
        found: Found,
        /// A statement that is spelled almost like it.
        similar: Option<&'static str>,
    },
    /// A statement that is about the whole gate, in a client's block.
    NotInBlock {
        /// The statement's first word.
        statement: &'static str,
    },
    /// A block that begins in a block.
    NestedBlock {
        /// The line where the outer one begins.
        line: usize,
    },
    /// A block without its end.
    UnclosedBlock,
    /// An end without a block.
    StrayBrace,
    /// A statement that can stand once.
    DuplicateStatement {
        /// The statement.
        statement: &'static str,
        /// The line of the first one.
        line: usize,
    },
    /// A second block for the same client.
    DuplicateClient {
        /// The line of the first one.
        line: usize,
    },
    /// An address of two hosts, or of a host and the gate.
    DuplicateAddress {
        /// The address.
        address: IpAddr,
        /// The line that has it already.
        line: usize,
    },
    /// A name of two hosts.
    DuplicateName {
        /// The name.
        name: Box<str>,
        /// The line that has it already.
        line: usize,
    },
    /// A MAC of two hosts.
    DuplicateMac {
        /// The line that has it already.
        line: usize,
    },
    /// A name that no `host` statement has.
    UnknownHost {
        /// The name.
        name: Box<str>,
        /// A host's name that is spelled almost like it.
        similar: Option<Box<str>>,
    },
    /// A prefix length that does not fit here.
    PrefixLength {
        /// The shortest that does.
        min: u8,
        /// The longest.
        max: u8,
    },
    /// A prefix whose address has bits behind the prefix.
    HostBits {
        /// The address.
        address: IpAddr,
        /// The network that it is in.
        network: IpCidr,
    },
    /// An address that no host of this network can have.
    NotAHost {
        /// The address.
        address: IpAddr,
        /// An address that one can have.
        example: IpAddr,
    },
    /// An address that is not unicast, or a loopback one.
    NotUnicast {
        /// The address.
        address: IpAddr,
    },
    /// A network that shares addresses with another.
    NetworksOverlap {
        /// The other.
        network: IpCidr,
        /// Its line.
        line: usize,
    },
    /// A host's address that is in no network of clients.
    OutsideNetworks {
        /// The address.
        address: IpAddr,
    },
    /// The gate's own address, where rules and targets mean others.
    GateAddress {
        /// The address.
        address: IpAddr,
    },
    /// Addresses of two families in one statement.
    Families {
        /// What comes first.
        first: Family,
        /// What comes then.
        second: Family,
    },
    /// A host that has no address of the family that is needed.
    HostWithout {
        /// The host's name.
        name: Box<str>,
        /// The family; none if it has no address at all.
        family: Option<Family>,
    },
    /// A range whose end comes before its beginning.
    RangeReversed {
        /// The number that stands first.
        first: u16,
        /// The number that stands last.
        last: u16,
    },
    /// Two ranges that should be of the same length.
    RangeLengths {
        /// How many ports are published.
        published: u32,
        /// How many they go to.
        target: u32,
    },
    /// Ports that are published already.
    DuplicatePublish {
        /// The protocol.
        transport: Transport,
        /// The ports that the line has.
        ports: PortRange,
        /// The line.
        line: usize,
    },
    /// An address that is mapped already.
    DuplicateMap {
        /// The address.
        address: IpAddr,
        /// The line that maps it.
        line: usize,
    },
    /// An address that is both mapped, which takes all its ports, and published.
    MappedAndPublished {
        /// The address.
        address: IpAddr,
        /// The line that publishes it.
        line: usize,
    },
    /// Ports in a rule about a protocol without ports, or about any.
    PortsWithoutProtocol,
    /// An ICMP type in a rule about another protocol.
    TypeWithoutIcmp,
    /// A number in a rule about both families, where it has two meanings.
    IcmpNumberNeedsFamily,
    /// A type that ICMP of this family does not have.
    IcmpTypeNotOf {
        /// The family.
        family: Family,
    },
    /// A rule in a block that is about what the client sends to itself.
    FromItself,
    /// A rule in a block about what others send to the gate.
    NeverMatches,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind::*;
        match self {
            TextTooLong { bytes } => {
                write!(f, "the text has {bytes} bytes, and {} are the limit: shorten it", super::MAX_TEXT)
            }
            TooManyRules => write!(f, "more than {} rules: use prefixes and ranges to have fewer", super::MAX_RULES),
            TooManyNames => write!(f, "more than {} names to resolve: use prefixes instead", super::MAX_NAMES),
            Expected { expected, found } => write!(f, "expected {expected}, found {found}"),
            UnknownStatement { found, similar: Some(similar) } => {
                write!(f, "no statement begins with {found}: did you mean `{similar}`?")
            }
            UnknownStatement { found, similar: None } => write!(
                f,
                "expected a rule (accept, drop, reject), or clients, search, host, masquerade, publish, map, limit, log, \
                 policy or client, found {found}"
            ),
            NotInBlock { statement } => {
                write!(f, "`{statement}` is about the whole gate: move it out of the client's block")
            }
            NestedBlock { line } => {
                write!(f, "the block of line {line} is still open: end it with a `}}` in a line of its own")
            }
            UnclosedBlock => f.write_str("this block has no end: add a `}` in a line of its own"),
            StrayBrace => f.write_str("no block is open: remove the `}`"),
            DuplicateStatement { statement, line } => {
                write!(f, "`{statement}` is said in line {line} already: remove one of them")
            }
            DuplicateClient { line } => {
                write!(f, "this client has a block in line {line} already: put its rules there")
            }
            DuplicateAddress { address, line } => {
                write!(f, "{address} is taken by line {line}: choose another address")
            }
            DuplicateName { name, line } => write!(f, "line {line} has a host `{name}` already: choose another name"),
            DuplicateMac { line } => write!(f, "line {line} has a host with this MAC already: join the two lines"),
            UnknownHost { name, similar: Some(similar) } => {
                write!(f, "there is no host `{name}`: did you mean `{similar}`?")
            }
            UnknownHost { name, similar: None } => write!(
                f,
                "there is no host `{name}`: add `host MAC {name} ADDRESS`, or write a DNS name with its dots, such as \
                 {name}.example.org"
            ),
            PrefixLength { min, max } => write!(f, "the prefix length has to be from {min} to {max} here"),
            HostBits { address, network } => {
                write!(f, "the network is {network}: write that, or {address} for the one address")
            }
            NotAHost { address, example } => {
                write!(f, "{address} is the network's own or its broadcast address: use another one, such as {example}")
            }
            NotUnicast { address } => write!(f, "{address} is no address of a single host: use a unicast address"),
            NetworksOverlap { network, line } => {
                write!(f, "this network overlaps with {network} of line {line}: each needs addresses of its own")
            }
            OutsideNetworks { address } => {
                write!(f, "{address} is in no network of clients: change it, or add a `clients` line for its network")
            }
            GateAddress { address } => {
                write!(f, "{address} is the gate's own address: in rules write `gate`, elsewhere use a client's address")
            }
            Families { first, second } => {
                write!(f, "{second} does not go with the {first} earlier in this line: use one family in a line")
            }
            HostWithout { name, family: Some(family) } => {
                write!(f, "the host `{name}` has no {family} address: add one to its `host` line")
            }
            HostWithout { name, family: None } => {
                write!(f, "the host `{name}` has no fixed address: add one to its `host` line")
            }
            RangeReversed { first, last } => write!(f, "this range ends before it begins: write {last}-{first}"),
            RangeLengths { published, target } => {
                write!(f, "{published} ports cannot go to {target}: use ranges of the same length")
            }
            DuplicatePublish { transport, ports, line } => {
                write!(f, "line {line} publishes {transport} {ports} already: remove one of them, or use other ports")
            }
            DuplicateMap { address, line } => write!(f, "line {line} maps {address} already: remove one of them"),
            MappedAndPublished { address, line } => write!(
                f,
                "line {line} publishes ports of {address}, and a map takes all of them: remove one of the two lines"
            ),
            PortsWithoutProtocol => f.write_str("only tcp and udp have ports: write one of them behind the rule's first word"),
            TypeWithoutIcmp => f.write_str("only ICMP has types: write icmp, icmp4 or icmp6 behind the rule's first word"),
            IcmpNumberNeedsFamily => {
                f.write_str("this number has two meanings, in IPv4 and in IPv6: write icmp4 or icmp6, or a type's name alone")
            }
            IcmpTypeNotOf { family } => write!(f, "{family} has no such ICMP type: choose another, or the other family"),
            FromItself => f.write_str(
                "in a client's block, `from` is about what others send to the client: leave it out for what the client sends",
            ),
            NeverMatches => f.write_str(
                "in a client's block, a rule with `from` is about what others send to the client: move rules about the gate out",
            ),
        }
    }
}
