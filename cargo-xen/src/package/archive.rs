//! Archives whose bytes depend on the content alone: the order, owners, modes and times are the same everywhere.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};
use tempfile::NamedTempFile;

use crate::interrupt::Interrupt;

/// When everything was changed last, if SOURCE_DATE_EPOCH does not say: the time that `cargo package` takes, since some
/// programs complain of zero.
const TIME: u64 = 1_153_704_088;

/// SOURCE_DATE_EPOCH as a time for the archive.
pub fn time(asked: Option<&str>) -> Result<u64> {
    match asked {
        None => Ok(TIME),
        // What the archive's field has room for.
        Some(text) => text
            .parse()
            .ok()
            .filter(|time| *time < 1 << 33)
            .with_context(|| format!("SOURCE_DATE_EPOCH={text}: expected seconds since 1970")),
    }
}

/// A file in the archive's folder.
pub struct Entry {
    name: String,
    data: Data,
    is_executable: bool,
}

enum Data {
    Text(String),
    File(PathBuf),
}

impl Entry {
    pub fn text(name: impl Into<String>, text: String) -> Entry {
        Entry { name: name.into(), data: Data::Text(text), is_executable: false }
    }

    pub fn script(name: impl Into<String>, text: String) -> Entry {
        Entry { is_executable: true, ..Entry::text(name, text) }
    }

    pub fn file(name: impl Into<String>, path: &Path) -> Entry {
        Entry { name: name.into(), data: Data::File(path.to_owned()), is_executable: false }
    }
}

/// Writes a folder with these files; size and SHA-256 of the archive.
pub fn write(output: impl Write, folder: &str, entries: &[Entry], time: u64) -> Result<(u64, String)> {
    let mut builder = Builder::new(Hashed { inner: output, hash: Sha256::new(), size: 0 });
    append(&mut builder, &format!("{folder}/"), EntryType::Directory, 0o755, time, 0, io::empty())?;
    for Entry { name, data, is_executable } in entries {
        let path = format!("{folder}/{name}");
        let mode = if *is_executable { 0o755 } else { 0o644 };
        match data {
            Data::Text(text) => {
                append(&mut builder, &path, EntryType::Regular, mode, time, text.len() as u64, text.as_bytes())?;
            }
            Data::File(file) => append_file(&mut builder, &path, mode, time, file)?,
        }
    }
    let mut written = builder.into_inner()?;
    written.flush()?;
    Ok((written.size, format!("{:x}", written.hash.finalize())))
}

/// The tar archive of a site's folder. Links in it stay links.
pub fn pack_site(folder: &Path, interrupt: &Interrupt) -> Result<NamedTempFile> {
    ensure!(folder.is_dir(), "site = {}: no such folder", folder.display());
    let file = tempfile::Builder::new().prefix("sarab-site-").suffix(".tar").tempfile()?;
    let partial = file.path().to_owned();
    interrupt.clean_up(move || drop(fs::remove_file(&partial)));
    let mut builder = Builder::new(io::BufWriter::new(file.as_file()));
    let packed = append_folder(&mut builder, folder, ".").and_then(|()| Ok(builder.into_inner()?.flush()?));
    packed.with_context(|| format!("cannot pack the site {}", folder.display()))?;
    Ok(file)
}

fn append_folder(builder: &mut Builder<impl Write>, folder: &Path, path: &str) -> Result<()> {
    append(builder, &format!("{path}/"), EntryType::Directory, 0o755, TIME, 0, io::empty())?;
    let entries = fs::read_dir(folder)?.map(|entry| entry.map(|entry| (entry.file_name(), entry.path())));
    for (name, from) in entries.collect::<io::Result<BTreeMap<_, _>>>()? {
        let name = name.to_str().with_context(|| format!("{}: its name is not UTF-8", from.display()))?;
        let path = format!("{path}/{name}");
        let metadata = fs::symlink_metadata(&from)?;
        if metadata.is_dir() {
            append_folder(builder, &from, &path)?;
        } else if metadata.is_symlink() {
            let mut header = header(EntryType::Symlink, 0o777, TIME, 0);
            builder.append_link(&mut header, &path, fs::read_link(&from)?)?;
        } else if metadata.is_file() {
            let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            append_file(builder, &path, mode, time_of(&from)?, &from)?;
        } else {
            anyhow::bail!("{} is neither a file nor a folder nor a link", from.display());
        }
    }
    Ok(())
}

/// A time that is another one where the content is. Servers make entity tags of a file's size and time, by which browsers
/// know that it has changed; the times of a checkout say when that was made.
fn time_of(file: &Path) -> Result<u64> {
    let mut hash = Sha256::new();
    File::open(file).and_then(|mut file| io::copy(&mut file, &mut hash)).with_context(|| file.display().to_string())?;
    let hash = hash.finalize();
    // Within eight years.
    Ok(TIME + u64::from(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) >> 4))
}

fn append_file(builder: &mut Builder<impl Write>, path: &str, mode: u32, time: u64, from: &Path) -> Result<()> {
    let file = File::open(from).with_context(|| from.display().to_string())?;
    let size = file.metadata()?.len();
    let mut data = file.take(size);
    append(builder, path, EntryType::Regular, mode, time, size, &mut data)?;
    ensure!(data.limit() == 0, "{} has become shorter meanwhile", from.display());
    Ok(())
}

fn append(
    builder: &mut Builder<impl Write>,
    path: &str,
    kind: EntryType,
    mode: u32,
    time: u64,
    size: u64,
    data: impl Read,
) -> Result<()> {
    Ok(builder.append_data(&mut header(kind, mode, time, size), path, data)?)
}

fn header(kind: EntryType, mode: u32, time: u64, size: u64) -> Header {
    // Owner and group stay 0. The GNU format has room for long names.
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(time);
    header.set_size(size);
    header
}

struct Hashed<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_archive_holds_what_was_given_and_nothing_of_this_machine() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("guest");
        fs::write(&file, [7; 1000]).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o700)).unwrap();
        let entries = [
            Entry::file("guest", &file),
            Entry::script("run.sh", "#!/bin/sh\n".into()),
            Entry::text("README", "a".into()),
        ];
        let mut bytes = Vec::new();
        let (size, hash) = write(&mut bytes, "guest-xl", &entries, 86400).unwrap();
        assert_eq!((size, hash), (bytes.len() as u64, format!("{:x}", Sha256::digest(&bytes))));
        let mut archive = tar::Archive::new(&bytes[..]);
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let header = entry.header().clone();
                let owner = (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap());
                assert_eq!((owner, header.username(), header.groupname()), ((0, 0, 86400), Ok(Some("")), Ok(Some(""))));
                let mut data = Vec::new();
                entry.read_to_end(&mut data).unwrap();
                (entry.path().unwrap().display().to_string(), header.mode().unwrap(), data)
            })
            .collect();
        let expected = [
            ("guest-xl/", 0o755, &[][..]),
            ("guest-xl/guest", 0o644, &[7; 1000]),
            ("guest-xl/run.sh", 0o755, b"#!/bin/sh\n"),
            ("guest-xl/README", 0o644, b"a"),
        ];
        assert_eq!(found, expected.map(|(path, mode, data)| (path.to_owned(), mode, data.to_vec())));
    }

    #[test]
    fn a_site_is_the_same_bytes_in_another_folder() {
        let pack = |order: [&str; 2], mode: u32| {
            let dir = tempfile::tempdir().unwrap();
            let site = dir.path().join("www");
            fs::create_dir_all(site.join("css")).unwrap();
            for name in order {
                fs::write(site.join(name), name).unwrap();
                fs::set_permissions(site.join(name), fs::Permissions::from_mode(mode)).unwrap();
            }
            symlink("b.html", site.join("index.html")).unwrap();
            fs::read(pack_site(&site, &Interrupt::default()).unwrap().path()).unwrap()
        };
        let (one, other) = (pack(["b.html", "css/a.css"], 0o600), pack(["css/a.css", "b.html"], 0o664));
        assert_eq!(one, other);
        let mut archive = tar::Archive::new(&one[..]);
        let times: BTreeSet<_> =
            archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap()).collect();
        assert_eq!(times.len(), 3, "one for each content, one for what has none: {times:?}");
        let names = |bytes: &[u8]| -> Vec<String> {
            let mut archive = tar::Archive::new(bytes);
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
        };
        assert_eq!(names(&one), ["./", "b.html", "css/", "css/a.css", "index.html"]);
    }

    #[test]
    fn source_date_epoch_is_a_number() {
        assert_eq!(time(None).unwrap(), TIME);
        assert_eq!(time(Some("1700000000")).unwrap(), 1_700_000_000);
        for bad in ["", "-1", "yesterday", "99999999999"] {
            assert!(time(Some(bad)).unwrap_err().to_string().contains("expected seconds since 1970"), "{bad}");
        }
    }
}
