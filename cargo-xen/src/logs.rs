//! A guest's console as people want to read it: text passes through, log frames become lines, addresses get names.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use addr2line::Loader;
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use defmt_decoder::{DecodeError, Locations, Table};

/// A log frame stands between these (`ESC ^ … ESC \`, see `platform-xen/src/log.rs`).
const BEGIN: &[u8] = b"\x1b^";
const END: &[u8] = b"\x1b\\";
/// The same where something between has taken the escapes out (Qubes OS does): believed where it is a frame of this guest.
const BARE_BEGIN: u8 = b'^';
const BARE_END: u8 = b'\\';
/// The longest frame: what is longer is no frame.
const MAX_FRAME: usize = 64 * 1024;
/// How lines begin that get a name (`platform-xen/src/report.rs`): these are held back until they are whole.
const NAMED: [&[u8]; 2] = [b"    #", b"CRASH: "];

/// Takes a console apart.
pub struct Decoder {
    symbols: Symbols,
    /// Bytes that may be the beginning of something.
    pending: Vec<u8>,
    /// A part of a line has been put out.
    in_line: bool,
}

struct Symbols {
    table: Option<(Table, Locations)>,
    loader: Option<Loader>,
    /// The crash that is being reported is a panic, whose first address is a return address as all others are.
    panic: bool,
}

impl Decoder {
    /// Reads strings and debug information from the guest's unstripped file. Without one, frames stay unread.
    pub fn new(elf: Option<&Path>) -> Result<Decoder> {
        let mut symbols = Symbols { table: None, loader: None, panic: false };
        if let Some(path) = elf {
            let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            if let Some(table) =
                Table::parse(&data).with_context(|| format!("{}: its log strings are damaged", path.display()))?
            {
                let locations = table.get_locations(&data).unwrap_or_default();
                symbols.table = Some((table, locations));
            }
            symbols.loader = Loader::new(path).ok();
        }
        Ok(Decoder { symbols, pending: Vec::new(), in_line: false })
    }

    /// Takes in what came from the console and puts out what can be shown.
    pub fn feed(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.pending.extend(bytes);
        loop {
            let Some(begin) = find(&self.pending, BEGIN) else {
                let text = self.pending.len() - self.held_back();
                let rest = self.pending.split_off(text);
                self.text(out)?;
                self.pending = rest;
                return Ok(());
            };
            let frame = begin + BEGIN.len();
            let Some(len) = find(&self.pending[frame..], END) else {
                if self.pending.len() - frame > MAX_FRAME {
                    let rest = self.pending.split_off(frame);
                    self.text(out)?;
                    self.pending = rest;
                    continue;
                }
                return Ok(());
            };
            let rest = self.pending.split_off(frame + len + END.len());
            let encoded = self.pending.split_off(frame)[..len].to_vec();
            self.pending.truncate(begin);
            self.text(out)?;
            self.pending = rest;
            if std::mem::take(&mut self.in_line) {
                writeln!(out)?;
            }
            writeln!(out, "{}", self.symbols.frame(&encoded))?;
        }
    }

    /// Whether what was put out ends within a line.
    pub fn in_line(&self) -> bool {
        self.in_line
    }

    /// How many bytes at the end wait for what follows: half a frame's beginning, or a line that may get a name.
    fn held_back(&self) -> usize {
        let line = self.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let last = &self.pending[line..];
        let begins_here = line > 0 || !self.in_line;
        if begins_here && NAMED.iter().any(|named| last.starts_with(named) || named.starts_with(last)) {
            return last.len();
        }
        match bare(last) {
            Some((begin, None)) if self.symbols.table.is_some() => last.len() - begin,
            _ => usize::from(last.ends_with(b"\x1b")),
        }
    }

    /// Puts out what is left when the console has ended.
    pub fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.text(out)
    }

    /// Puts out the pending bytes as text.
    fn text(&mut self, out: &mut impl Write) -> io::Result<()> {
        for line in std::mem::take(&mut self.pending).split_inclusive(|byte| *byte == b'\n') {
            let mut line = line;
            while let Some((begin, Some(end))) = bare(line) {
                let Some(text) = self.symbols.bare_frame(&line[begin + 1..end]) else { break };
                out.write_all(&line[..begin])?;
                if std::mem::take(&mut self.in_line) || begin > 0 {
                    writeln!(out)?;
                }
                writeln!(out, "{text}")?;
                line = &line[end + 1..];
            }
            if line.is_empty() {
                continue;
            }
            let clean: Vec<u8> = line.iter().copied().filter(|byte| *byte != b'\r').collect();
            let name = if self.in_line { None } else { self.symbols.name(&clean) };
            self.in_line = !line.ends_with(b"\n");
            match name {
                Some(name) => writeln!(out, "{}  {name}", String::from_utf8_lossy(&clean).trim_end())?,
                None => out.write_all(&clean)?,
            }
        }
        Ok(())
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Where a frame without its escapes begins, and, if it does in this line, ends.
fn bare(line: &[u8]) -> Option<(usize, Option<usize>)> {
    let mut from = 0;
    while let Some(begin) = line[from..].iter().position(|byte| *byte == BARE_BEGIN).map(|at| from + at) {
        let rest = &line[begin + 1..];
        match rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && !b"+/".contains(byte)) {
            None if rest.len() < MAX_FRAME => return Some((begin, None)),
            Some(len) if len > 0 && rest[len] == BARE_END => return Some((begin, Some(begin + 1 + len))),
            _ => from = begin + 1,
        }
    }
    None
}

impl Symbols {
    /// A log frame as a line: time, level, message, place.
    fn frame(&self, encoded: &[u8]) -> String {
        self.decode(encoded).unwrap_or_else(|why| format!("[log: {why}]"))
    }

    /// The same, where only the frame itself tells that it is one.
    fn bare_frame(&self, encoded: &[u8]) -> Option<String> {
        self.decode(encoded).ok()
    }

    fn decode(&self, encoded: &[u8]) -> Result<String, &'static str> {
        let Some((table, locations)) = &self.table else {
            return Err("a frame, but no strings to read it with: name the guest's unstripped ELF with --elf");
        };
        let bytes = BASE64_STANDARD_NO_PAD.decode(encoded).map_err(|_| "a damaged frame")?;
        let mut decoder = table.new_stream_decoder();
        decoder.received(&bytes);
        let frame = match decoder.decode() {
            Ok(frame) => frame,
            Err(DecodeError::UnexpectedEof) => return Err("an incomplete frame"),
            Err(DecodeError::Malformed) => return Err("a frame that is not from this build of the guest"),
        };
        let time = frame.display_timestamp().map(|time| format!("[{time}] ")).unwrap_or_default();
        let level = frame.level().map_or("", |level| level.as_str()).to_uppercase();
        let place = locations.get(&frame.index()).map(|at| {
            let file = at.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            format!("  ({file}:{})", at.line)
        });
        Ok(format!("{time}{level:<5} {}{}", frame.display_message(), place.unwrap_or_default()))
    }

    /// The function and place of a line in a crash report, `    #N 0xADDRESS`.
    fn name(&mut self, line: &[u8]) -> Option<String> {
        let line = std::str::from_utf8(line).ok()?;
        if let Some(crash) = line.strip_prefix("CRASH: ") {
            self.panic = crash.starts_with("panic");
        }
        let (number, address) = line.strip_prefix("    #")?.trim_end().split_once(" 0x")?;
        let number: u32 = number.parse().ok()?;
        let address = u64::from_str_radix(address, 16).ok()?;
        // Return addresses may belong to the line after the call, or to the function after one that does not return. The
        // first address of an exception is where it happened.
        let probe = if number == 0 && !self.panic { address } else { address.saturating_sub(1) };
        let loader = self.loader.as_ref()?;
        let mut names = Vec::new();
        let mut frames = loader.find_frames(probe).ok()?;
        while let Ok(Some(frame)) = frames.next() {
            let function = frame.function.as_ref().and_then(|name| name.demangle().ok()).map(|name| short(&name));
            let place = frame
                .location
                .and_then(|at| Some(format!("{}:{}", Path::new(at.file?).file_name()?.to_str()?, at.line?)));
            if let Some(function) = function {
                names.push(format!("{function}{}", place.map(|place| format!(" ({place})")).unwrap_or_default()));
            }
        }
        (!names.is_empty()).then(|| names.join(" in "))
    }
}

/// A demangled name without the hash at its end.
fn short(name: &str) -> String {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()) => path.to_owned(),
        _ => name.to_owned(),
    }
}

/// What a console printed, as `cargo xen logs` shows it.
///
/// # Errors
///
/// Where the unstripped file cannot be read.
pub fn decoded(elf: &Path, console: &[u8]) -> Result<String> {
    let mut decoder = Decoder::new(Some(elf))?;
    let mut out = Vec::new();
    decoder.feed(console, &mut out)?;
    decoder.finish(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// `cargo xen logs`.
pub fn command(elf: Option<PathBuf>, file: Option<PathBuf>) -> Result<()> {
    let mut decoder = Decoder::new(elf.as_deref())?;
    let mut input: Box<dyn Read> = match &file {
        Some(path) => Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?),
        None => Box::new(io::stdin()),
    };
    let mut input = BufReader::new(&mut input);
    let mut out = io::stdout().lock();
    let mut bytes = [0; 4096];
    loop {
        match input.read(&mut bytes)? {
            0 => break,
            count => decoder.feed(&bytes[..count], &mut out)?,
        }
        out.flush()?;
    }
    Ok(decoder.finish(&mut out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(parts: &[&[u8]]) -> String {
        let mut decoder = Decoder::new(None).unwrap();
        let mut out = Vec::new();
        parts.iter().for_each(|part| decoder.feed(part, &mut out).unwrap());
        decoder.finish(&mut out).unwrap();
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn text_passes_through_however_it_is_cut() {
        let text = b"one\r\ntwo \x1b[1mbold\x1b[0m\r\nlast";
        for cut in 0..text.len() {
            assert_eq!(decode(&[&text[..cut], &text[cut..]]), "one\ntwo \x1b[1mbold\x1b[0m\nlast");
        }
    }

    #[test]
    fn a_part_of_a_line_is_shown_at_once() {
        let mut decoder = Decoder::new(None).unwrap();
        let mut out = Vec::new();
        for (part, shown) in [
            (&b"one\ntw"[..], "one\ntw"),
            (b"o    #0 0x1", "one\ntwo    #0 0x1"),
            (b"\n    #", "one\ntwo    #0 0x1\n"),
            (b"x", "one\ntwo    #0 0x1\n"),
            (b"\n? ", "one\ntwo    #0 0x1\n    #x\n? "),
            (b"\x1b^AAGi\x1b\\", "one\ntwo    #0 0x1\n    #x\n? \n[log: a frame, but no strings"),
        ] {
            decoder.feed(part, &mut out).unwrap();
            assert!(String::from_utf8_lossy(&out).starts_with(shown), "{}", String::from_utf8_lossy(&out));
        }
        assert!(out.ends_with(b"]\n"));
    }

    #[test]
    fn frames_are_taken_out_of_the_text() {
        let text = b"before\r\n\x1b^AAGi\x1b\\after\r\n";
        for cut in 0..text.len() {
            let out = decode(&[&text[..cut], &text[cut..]]);
            assert!(out.starts_with("before\n[log: a frame, but no strings"), "{out}");
            assert!(out.ends_with("]\nafter\n"), "{out}");
        }
    }

    #[test]
    fn a_frame_without_an_end_does_not_swallow_the_rest() {
        let mut text = b"\x1b^".to_vec();
        text.resize(MAX_FRAME + 10, b'x');
        text.extend(b"\nend\n");
        assert!(decode(&[&text]).ends_with("xx\nend\n"));
        assert!(decode(&[b"\x1b^abc"]).ends_with("abc"));
    }

    #[test]
    fn symbols_come_from_the_unstripped_file() {
        let own = std::env::current_exe().unwrap();
        let mut decoder = Decoder::new(Some(&own)).unwrap();
        // Where the program was loaded does not matter to the file's own addresses: take one from its symbols.
        let data = fs::read(&own).unwrap();
        let file = object::File::parse(&*data).unwrap();
        use object::{Object, ObjectSymbol, SymbolKind};
        let is_it = |symbol: &object::Symbol<'_, '_>| {
            let is_named = symbol.name().is_ok_and(|name| name.contains("symbols_come_from"));
            is_named && symbol.kind() == SymbolKind::Text && symbol.size() > 0
        };
        // The function, or one of its closures.
        let mut named = file.symbols().filter(is_it).filter(|symbol| {
            let name = decoder.symbols.name(format!("    #0 {:#x}\n", symbol.address()).as_bytes());
            name.is_some_and(|name| name.contains("symbols_come_from_the_unstripped_file"))
        });
        let symbol = named.next().expect("a function whose address has a name");
        drop(named);
        // A panic's first address is behind the call, which may be the function's last instruction.
        assert_eq!(decoder.symbols.name(b"CRASH: panic at x.rs:1:1: no\n"), None);
        let end = symbol.address() + symbol.size();
        let name = decoder.symbols.name(format!("    #0 {end:#x}\n").as_bytes()).unwrap();
        assert!(name.contains("symbols_come_from_the_unstripped_file"), "{name}");
        assert_eq!(decoder.symbols.name(b"    #x 0x1"), None);
        assert_eq!(decoder.symbols.name(b"    #1 0xzz"), None);
    }
}
