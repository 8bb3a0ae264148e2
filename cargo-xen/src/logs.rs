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
/// The longest frame: what is longer is no frame.
const LONGEST: usize = 64 * 1024;

/// Takes a console apart.
pub struct Decoder {
    symbols: Symbols,
    /// Bytes that may be the beginning of something.
    pending: Vec<u8>,
}

struct Symbols {
    table: Option<(Table, Locations)>,
    loader: Option<Loader>,
}

impl Decoder {
    /// Reads strings and debug information from the guest's unstripped file. Without one, frames stay unread.
    pub fn new(elf: Option<&Path>) -> Result<Decoder> {
        let mut symbols = Symbols { table: None, loader: None };
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
        Ok(Decoder { symbols, pending: Vec::new() })
    }

    /// Takes in what came from the console and puts out what can be shown.
    pub fn feed(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        self.pending.extend(bytes);
        loop {
            let Some(begin) = find(&self.pending, BEGIN) else {
                // An ESC at the end may be half a beginning; a line that is not whole may still get a name.
                let text = self.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let text = match text {
                    0 if !self.pending.starts_with(b"    #") => {
                        self.pending.len() - usize::from(self.pending.ends_with(b"\x1b"))
                    }
                    end => end,
                };
                let rest = self.pending.split_off(text);
                self.text(out)?;
                self.pending = rest;
                return Ok(());
            };
            let frame = begin + BEGIN.len();
            let Some(len) = find(&self.pending[frame..], END) else {
                if self.pending.len() - frame > LONGEST {
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
            writeln!(out, "{}", self.symbols.frame(&encoded))?;
        }
    }

    /// Puts out what is left when the console has ended.
    pub fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.text(out)
    }

    /// Puts out the pending bytes as text.
    fn text(&mut self, out: &mut impl Write) -> io::Result<()> {
        for line in std::mem::take(&mut self.pending).split_inclusive(|byte| *byte == b'\n') {
            let clean: Vec<u8> = line.iter().copied().filter(|byte| *byte != b'\r').collect();
            match self.symbols.name(&clean) {
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

impl Symbols {
    /// A log frame as a line: time, level, message, place.
    fn frame(&self, encoded: &[u8]) -> String {
        let Some((table, locations)) = &self.table else {
            return "[log: a frame, but no strings to read it with: name the guest's unstripped ELF with --elf]".into();
        };
        let Ok(bytes) = BASE64_STANDARD_NO_PAD.decode(encoded) else {
            return "[log: a damaged frame]".into();
        };
        let mut decoder = table.new_stream_decoder();
        decoder.received(&bytes);
        let frame = match decoder.decode() {
            Ok(frame) => frame,
            Err(DecodeError::UnexpectedEof) => return "[log: an incomplete frame]".into(),
            Err(DecodeError::Malformed) => return "[log: a frame that is not from this build of the guest]".into(),
        };
        let time = frame.display_timestamp().map(|time| format!("[{time}] ")).unwrap_or_default();
        let level = frame.level().map_or("", |level| level.as_str()).to_uppercase();
        let place = locations.get(&frame.index()).map(|at| {
            let file = at.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            format!("  ({file}:{})", at.line)
        });
        format!("{time}{level:<5} {}{}", frame.display_message(), place.unwrap_or_default())
    }

    /// The function and place of a line in a crash report, `    #N 0xADDRESS`.
    fn name(&self, line: &[u8]) -> Option<String> {
        let line = std::str::from_utf8(line).ok()?;
        let (number, address) = line.strip_prefix("    #")?.trim_end().split_once(" 0x")?;
        let number: u32 = number.parse().ok()?;
        let address = u64::from_str_radix(address, 16).ok()?;
        // All but the first are return addresses, which may belong to the line after the call.
        let probe = if number == 0 { address } else { address.saturating_sub(1) };
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
        text.resize(LONGEST + 10, b'x');
        text.extend(b"\nend\n");
        assert!(decode(&[&text]).ends_with("xx\nend\n"));
        assert!(decode(&[b"\x1b^abc"]).ends_with("abc"));
    }

    #[test]
    fn symbols_come_from_the_unstripped_file() {
        let own = std::env::current_exe().unwrap();
        let decoder = Decoder::new(Some(&own)).unwrap();
        // Where the program was loaded does not matter to the file's own addresses: take one from its symbols.
        let data = fs::read(&own).unwrap();
        let file = object::File::parse(&*data).unwrap();
        use object::{Object, ObjectSymbol};
        let symbol =
            file.symbols().find(|symbol| symbol.name().is_ok_and(|name| name.contains("symbols_come_from"))).unwrap();
        let name = decoder.symbols.name(format!("    #0 {:#x}\n", symbol.address()).as_bytes()).unwrap();
        assert!(name.contains("symbols_come_from_the_unstripped_file"), "{name}");
        assert_eq!(decoder.symbols.name(b"    #x 0x1"), None);
        assert_eq!(decoder.symbols.name(b"    #1 0xzz"), None);
    }
}
