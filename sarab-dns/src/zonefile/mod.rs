//! Zone files (RFC 1035, section 5; RFC 2308, section 4; RFC 3597).

mod entry;
mod loc;
mod rdata;
pub(crate) mod scanner;
mod svcb;
pub(crate) mod text;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::str;

use domain::base::iana::{Class, Rtype};

use crate::builder::Builder;
use crate::error::{LoadError, Problem};
use crate::name::is_within;
use crate::zone::Zone;
use entry::{End, Token};
use scanner::{Bad, Fields};

/// Most bytes of an entry, which may go over many lines.
pub const MAX_ENTRY: usize = 128 << 10;
/// Most files that are included in one another.
const MAX_DEPTH: usize = 8;
/// Most files of a zone.
const MAX_FILES: usize = 256;
/// Entries of a step.
const ENTRIES: usize = 64;

/// What a [`Loader`] needs to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// [`Loader::step`] once more, after others have had their turn.
    More,
    /// More of the current file's bytes ([`Loader::feed`]), or its end ([`Loader::end_of_file`]).
    Read,
    /// The bytes of another file from now on, until its end.
    Include(Box<str>),
    /// [`Loader::finish`].
    Done,
}

/// What a zone may take.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of memory, while it is loaded: about twice what it takes afterwards.
    pub memory: usize,
}

impl Limits {
    /// So many bytes of memory.
    pub fn new(memory: usize) -> Limits {
        Limits { memory }
    }
}

/// Makes a zone of its file, whose bytes are fed in pieces: what it holds of the file is an entry.
///
/// # Examples
///
/// ```
/// use futures_util::FutureExt;
/// use sarab_dns::{Limits, Loader, Step, parse_name};
///
/// let text = b"$TTL 1h\n@ SOA ns hostmaster 1 1d 2h 4w 1h\n@ NS ns\nns A 192.0.2.1\n";
/// let mut loader = Loader::new(&parse_name("example.org").unwrap(), "example.zone", Limits::new(1 << 20));
/// loader.feed(text);
/// loader.end_of_file();
/// while loader.step().unwrap() != Step::Done {}
/// let (zone, warnings) = loader.finish(async || {}).now_or_never().unwrap().unwrap();
/// assert_eq!((zone.serial(), zone.names(), zone.records()), (1, 2, 3));
/// assert!(warnings.is_empty());
/// ```
pub struct Loader {
    builder: Builder,
    files: Vec<File>,
    names: Vec<Rc<str>>,
    /// `$TTL`.
    default_ttl: Option<u32>,
    /// Of the record before.
    last_ttl: Option<u32>,
    tokens: Vec<Token>,
    failed: bool,
}

struct File {
    /// Its place in the list of names.
    number: u8,
    line: u32,
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
    origin: Box<[u8]>,
    /// The owner of the record before.
    owner: Option<Box<[u8]>>,
}

impl Loader {
    /// For the zone `apex`, a name in wire format ([`parse_name`](crate::parse_name)); `file` is for messages.
    pub fn new(apex: &[u8], file: &str, limits: Limits) -> Loader {
        let apex = apex.to_ascii_lowercase().into_boxed_slice();
        let mut loader = Loader {
            builder: Builder::new(&apex, limits.memory),
            files: Vec::new(),
            names: Vec::new(),
            default_ttl: None,
            last_ttl: None,
            tokens: Vec::new(),
            failed: false,
        };
        loader.open(file, apex, None);
        loader
    }

    fn open(&mut self, file: &str, origin: Box<[u8]>, owner: Option<Box<[u8]>>) {
        let number = self.names.len() as u8;
        self.names.push(file.into());
        self.files.push(File { number, line: 1, bytes: Vec::new(), at: 0, ended: false, origin, owner });
    }

    /// Adds bytes of the file that [`Step::Read`] or [`Step::Include`] has asked for.
    pub fn feed(&mut self, bytes: &[u8]) {
        if let Some(file) = self.files.last_mut() {
            file.bytes.drain(..file.at);
            file.at = 0;
            file.bytes.extend_from_slice(bytes);
        }
    }

    /// The file that was asked for has no more bytes.
    pub fn end_of_file(&mut self) {
        if let Some(file) = self.files.last_mut() {
            file.ended = true;
        }
    }

    /// Reads some entries: so few that a step takes a fraction of a millisecond.
    ///
    /// # Errors
    ///
    /// Where the file is wrong, or the zone does not fit: this zone cannot be loaded.
    pub fn step(&mut self) -> Result<Step, LoadError> {
        for _ in 0..ENTRIES {
            let Some(file) = self.files.last_mut() else { return Ok(Step::Done) };
            let rest = &file.bytes[file.at..];
            if rest.is_empty() && file.ended {
                self.files.pop();
                continue;
            }
            let len = match entry::end(rest, file.ended) {
                End::At(len) => len,
                End::Unknown if rest.len() < MAX_ENTRY => return Ok(Step::Read),
                End::Unknown => return self.fail(0, Problem::Text("an entry is longer than 128 KiB".into())),
                End::Never(what, line) => return self.fail(line, Problem::Text(what.into())),
            };
            let mut tokens = core::mem::take(&mut self.tokens);
            entry::tokens(&rest[..len], &mut tokens);
            let outcome = self.entry(len, &tokens);
            self.tokens = tokens;
            let file = self.files.last_mut().expect("one is read");
            let lines = file.bytes[file.at..file.at + len].iter().filter(|byte| **byte == b'\n').count() as u32;
            match outcome {
                Ok(include) => {
                    file.at += len;
                    file.line += lines;
                    if let Some((name, origin)) = include {
                        let owner = file.owner.clone();
                        return self.include(&name, origin, owner);
                    }
                }
                Err((line, problem)) => return self.fail(line, problem),
            }
        }
        Ok(Step::More)
    }

    fn include(&mut self, name: &str, origin: Box<[u8]>, owner: Option<Box<[u8]>>) -> Result<Step, LoadError> {
        if self.files.len() >= MAX_DEPTH || self.names.len() >= MAX_FILES {
            let text =
                "$INCLUDE: more than 8 files are included in one another, or 256 in all; does one include itself?";
            return self.fail(0, Problem::Text(text.into()));
        }
        self.open(name, origin, owner);
        Ok(Step::Include(name.into()))
    }

    /// What was wrong while a file was read, which is not this one's fault: it does not exist, or its disk fails.
    pub fn unreadable(&mut self, why: &str) -> LoadError {
        let file = self.files.pop().expect("one is read");
        let name = self.names[usize::from(file.number)].clone();
        self.failed = true;
        LoadError { file: name.to_string().into(), line: 0, problem: Problem::Text(why.into()) }
    }

    fn fail<T>(&mut self, line: u32, problem: Problem) -> Result<T, LoadError> {
        self.failed = true;
        let file = self.files.last().expect("one is read");
        let name = self.names[usize::from(file.number)].to_string().into();
        Err(LoadError { file: name, line: file.line + line, problem })
    }

    /// The zone, and what is strange about it, in a few lines. `pause` is called after each fraction of a millisecond, to let
    /// others have their turn.
    ///
    /// # Errors
    ///
    /// Where its records do not make a zone: no SOA, other data beside a CNAME, and the like.
    ///
    /// # Cancellation
    ///
    /// Dropping the future drops the zone.
    pub async fn finish(self, pause: impl AsyncFnMut()) -> Result<(Zone, Vec<String>), LoadError> {
        let whole = self.files.is_empty() && !self.failed;
        let names = self.names;
        if !whole {
            let file = names[0].to_string().into();
            return Err(LoadError { file, line: 0, problem: Problem::Text("it was not read to its end".into()) });
        }
        self.builder.finish(&names, pause).await
    }

    /// Does what an entry says; a file to include, with its origin, if that is it.
    #[expect(clippy::type_complexity, reason = "it is a name with an origin")]
    fn entry(&mut self, len: usize, tokens: &[Token]) -> Result<Option<(String, Box<[u8]>)>, (u32, Problem)> {
        let Some(first) = tokens.first().copied() else { return Ok(None) };
        let file = self.files.last_mut().expect("one is read");
        let bytes = &file.bytes[file.at..file.at + len];
        let line = |fields: &Fields<'_>| tokens.get(fields.next.saturating_sub(1)).map_or(0, |token| token.line);
        let mut fields = Fields { bytes, tokens, next: 0, origin: &file.origin };
        let has_owner = !matches!(bytes.first(), Some(b' ' | b'\t' | b'\n' | b'\r' | b'(' | b';'));
        if has_owner && !first.quoted && fields.raw(first).starts_with(b"$") {
            fields.next = 1;
            return match directive(&mut fields, first) {
                Ok(Directive::Origin(origin)) => {
                    file.origin = origin;
                    Ok(None)
                }
                Ok(Directive::Ttl(ttl)) => {
                    self.default_ttl = Some(ttl);
                    Ok(None)
                }
                Ok(Directive::Include(name, origin)) => Ok(Some((name, origin.unwrap_or_else(|| file.origin.clone())))),
                Err(bad) => Err((line(&fields), Problem::Text(bad))),
            };
        }
        let owner = if has_owner {
            fields.next = 1;
            let name = if first.quoted {
                Err(Bad("an owner has no quotation marks"))
            } else {
                text::name(fields.raw(first), &file.origin)
            };
            let mut name = name.map_err(|bad| (first.line, Problem::Text(bad.0.into())))?;
            name.make_ascii_lowercase();
            name.into_boxed_slice()
        } else {
            match file.owner.take() {
                Some(owner) => owner,
                None => {
                    return Err((
                        first.line,
                        Problem::Text("the first record has no owner: its line begins with a space".into()),
                    ));
                }
            }
        };
        let head = head(&mut fields).map_err(|text| (line(&fields), Problem::Text(text)))?;
        let data = rdata::scan(head.rtype, &mut fields);
        let data = data.map_err(|bad| (line(&fields), Problem::Data(head.rtype, bad.0)))?;
        let ttl = match head.ttl.or(self.default_ttl).or(self.last_ttl) {
            Some(ttl) => ttl,
            // RFC 1035 has no other for it, and who writes SOA first means this (as BIND does).
            None if head.rtype == Rtype::SOA => minimum(&data),
            None => {
                return Err((
                    first.line,
                    Problem::Text("it has no TTL: begin the file with $TTL 1h, or write one".into()),
                ));
            }
        };
        self.last_ttl = Some(ttl);
        let apex = self.builder.apex();
        if !is_within(&owner, apex) {
            return Err((first.line, Problem::Outside(owner)));
        }
        let place = (file.number, file.line + first.line);
        let outcome = self.builder.add(&owner, head.rtype, ttl, &data, place);
        file.owner = Some(owner);
        outcome.map(|()| None).map_err(|problem| (first.line, problem))
    }
}

/// The last field of SOA.
fn minimum(soa: &[u8]) -> u32 {
    soa.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

enum Directive {
    Origin(Box<[u8]>),
    Ttl(u32),
    Include(String, Option<Box<[u8]>>),
}

fn directive(fields: &mut Fields<'_>, first: Token) -> Result<Directive, String> {
    let is = |name: &str| fields.raw(first).eq_ignore_ascii_case(name.as_bytes());
    let origin = |fields: &mut Fields<'_>| -> Result<Box<[u8]>, Bad> {
        let token = fields.take()?;
        let mut name = text::name(fields.raw(token), fields.origin)?;
        name.make_ascii_lowercase();
        Ok(name.into_boxed_slice())
    };
    let found = if is("$ORIGIN") {
        origin(fields).map(Directive::Origin)
    } else if is("$TTL") {
        let token = fields.take().map_err(|bad| bad.to_string())?;
        text::seconds(fields.raw(token)).unwrap_or(Err(Bad("expected a time such as 3600 or 1h"))).map(Directive::Ttl)
    } else if is("$INCLUDE") {
        let token = fields.take().map_err(|bad| bad.to_string())?;
        let name = text::unescape(fields.raw(token)).map_err(|bad| bad.to_string())?;
        let name = String::from_utf8(name).map_err(|_| "$INCLUDE: the file's name is not valid UTF-8".to_string())?;
        match fields.next < fields.tokens.len() {
            true => origin(fields).map(|origin| Directive::Include(name, Some(origin))),
            false => Ok(Directive::Include(name, None)),
        }
    } else {
        let name = String::from_utf8_lossy(fields.raw(first)).into_owned();
        return Err(alloc::format!("unknown directive {name}; known are $ORIGIN, $TTL and $INCLUDE"));
    };
    match found {
        Ok(_) if fields.next < fields.tokens.len() => Err("something follows the directive".into()),
        found => found.map_err(|bad| alloc::format!("{}: {bad}", String::from_utf8_lossy(fields.raw(first)))),
    }
}

struct Head {
    rtype: Rtype,
    ttl: Option<u32>,
}

/// TTL and class, in either order, and the type.
fn head(fields: &mut Fields<'_>) -> Result<Head, String> {
    let (mut ttl, mut class) = (None, None);
    loop {
        let token = fields.take().map_err(|_| "a record has a type and data".to_string())?;
        let raw = fields.raw(token);
        let word = str::from_utf8(raw).map_err(|_| "expected a TTL, a class or a type".to_string())?;
        if ttl.is_none()
            && let Some(seconds) = text::seconds(raw)
        {
            ttl = Some(seconds.map_err(|bad| bad.to_string())?);
        } else if class.is_none()
            && let Ok(found) = word.parse::<Class>()
        {
            if found != Class::IN {
                return Err(alloc::format!("class {word}: zones of class IN are served, and no others"));
            }
            class = Some(found);
        } else if let Ok(rtype) = word.parse::<Rtype>() {
            // Types of questions and of the transport are in no zone (RFC 6895, section 3.1).
            if matches!(rtype.to_int(), 0 | 41 | 128..=255) {
                return Err(alloc::format!("type {word} cannot be in a zone"));
            }
            return Ok(Head { rtype, ttl });
        } else {
            return Err(alloc::format!("unknown type {word:?}; RFC 3597 has a name for any: TYPE65280"));
        }
    }
}
