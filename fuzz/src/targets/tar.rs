//! A tar archive on a disk, and how much memory its index may take: files that are looked for in it.

use ::tar::{Builder, EntryType, Header};

pub(super) const SHORT: u32 = 5000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [Header::new_ustar(), Header::new_gnu()].map(seed).to_vec()
}

/// An archive with files, links and what describes them.
fn seed(mut header: Header) -> Vec<u8> {
    let mut builder = Builder::new(vec![32]);
    builder.append_pax_extensions([("path", &b"pax"[..]), ("mtime", b"5.5"), ("size", b"700")]).expect("a vector");
    for (name, len) in [("name", 700), ("long", 10), ("folder/of/empty", 0)] {
        header.set_size(len);
        let name = if name == "long" { "long/".repeat(35) } else { name.to_owned() };
        // Not all names have a place in the older form.
        let _ = builder.append_data(&mut header, name, &vec![b'x'; len as usize][..]);
    }
    header.set_size(0);
    for (kind, name, target) in [(EntryType::Symlink, "link", "./hard"), (EntryType::Link, "hard", "name")] {
        header.set_entry_type(kind);
        builder.append_link(&mut header, name, target).expect("short names");
    }
    builder.into_inner().expect("a vector")
}

pub(super) fn run(data: &[u8]) {
    sarab_site::fuzzing::tar(data);
}
