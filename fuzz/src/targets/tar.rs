//! A tar archive on a disk, and how much memory its index may take: files that are looked for in it.

use ::tar::{Builder, EntryType, Header};

pub(super) const SHORT: u32 = 5000;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [Header::new_ustar(), Header::new_gnu()].into_iter().map(seed).chain([sparse(), tangled()]).collect()
}

/// Files with holes, in each of GNU tar's forms, and properties of all files.
fn sparse() -> Vec<u8> {
    let mut builder = Builder::new(vec![32]);
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XGlobalHeader);
    header.set_size(11);
    builder.append_data(&mut header, "global", &b"11 mtime=7\n"[..]).expect("a vector");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_size(1024);
    let gnu = header.as_gnu_mut().expect("it is one");
    gnu.set_real_size(100_000);
    for (slot, at) in gnu.sparse.iter_mut().zip([0, 2048, 50_000, 100_000]) {
        slot.set_offset(at);
        slot.set_length(if at > 2048 { 0 } else { 512 });
    }
    builder.append_data(&mut header, "sparse-header", &[b'x'; 1024][..]).expect("a vector");
    let maps: [&[(&str, &[u8])]; 3] = [
        &[("GNU.sparse.size", b"9000"), ("GNU.sparse.offset", b"9"), ("GNU.sparse.numbytes", b"600")],
        &[("GNU.sparse.size", b"9000"), ("GNU.sparse.name", b"pax"), ("GNU.sparse.map", b"9,600,9000,0")],
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9000")],
    ];
    for (name, map) in ["name", "other", "long"].into_iter().zip(maps) {
        builder.append_pax_extensions(map.iter().copied()).expect("a vector");
        let mut bytes = vec![b'x'; 1112];
        bytes[..512].fill(0);
        bytes[..14].copy_from_slice(b"2\n9\n600\n700\n0\n");
        let mut header = Header::new_ustar();
        header.set_size(1112);
        builder.append_data(&mut header, name, &bytes[..]).expect("a vector");
    }
    builder.into_inner().expect("a vector")
}

/// What goes through links, and takes the place of folders.
fn tangled() -> Vec<u8> {
    let mut builder = Builder::new(vec![32]);
    let mut add = |kind: EntryType, name: &str, target: &str| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(0);
        match target {
            "" => builder.append_data(&mut header, name, &[][..]).expect("a vector"),
            target => builder.append_link(&mut header, name, target).expect("a vector"),
        }
    };
    add(EntryType::Regular, "v2/name", "");
    add(EntryType::Symlink, "link", "v2");
    add(EntryType::Regular, "link/name", "");
    add(EntryType::Link, "name", "link/name");
    add(EntryType::Symlink, "long", "link/../v2/./name");
    add(EntryType::Directory, "link/", "");
    add(EntryType::Regular, "link/pax", "");
    add(EntryType::Link, "pax", "../a/../link/pax");
    builder.into_inner().expect("a vector")
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
