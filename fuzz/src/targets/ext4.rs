//! An ext4, ext3 or ext2 file system on a disk: parts of an image, and files that are looked for in it.

pub(super) const SHORT: u32 = 1500;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let images: [&[u8]; 12] = [
        include_bytes!("../../../sarab-site/tests/images/blocks-of-4k"),
        include_bytes!("../../../sarab-site/tests/images/encrypted"),
        include_bytes!("../../../sarab-site/tests/images/first-revision"),
        include_bytes!("../../../sarab-site/tests/images/groups"),
        include_bytes!("../../../sarab-site/tests/images/inline"),
        include_bytes!("../../../sarab-site/tests/images/journal"),
        include_bytes!("../../../sarab-site/tests/images/journal-with-checksums"),
        include_bytes!("../../../sarab-site/tests/images/legacy-hash"),
        include_bytes!("../../../sarab-site/tests/images/maps"),
        include_bytes!("../../../sarab-site/tests/images/plain"),
        include_bytes!("../../../sarab-site/tests/images/small-inodes"),
        include_bytes!("../../../sarab-site/tests/images/wide"),
    ];
    images.map(<[u8]>::to_vec).to_vec()
}

pub(super) fn run(data: &[u8]) {
    sarab_site::fuzzing::ext4(data);
}
