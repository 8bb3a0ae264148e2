//! Volumes of cryptsetup's opened here, and ours opened by cryptsetup: on plain files, for which it needs neither root nor
//! device mapper. Where cryptsetup is not installed these tests say so and end; the lab's check `luks` runs everywhere.

use std::fs;
use std::path::Path;
use std::process::Command;

use sarab_luks::{Argon2Cost, FormatOptions, Hash, Kdf, Limits, OpenOptions, Volume};
use xen_blkif::BlockDevice;
use xen_sim::{Domain, Xen};

mod support;

use support::{Image, Random, bytes_of};

/// A file and keys, in a folder of their own.
struct Files(tempfile::TempDir);

impl Files {
    /// `None` where there is no cryptsetup.
    fn new() -> Option<Files> {
        match Command::new("cryptsetup").arg("--version").output() {
            Ok(output) if output.status.success() => {}
            _ => {
                eprintln!("not compared with cryptsetup, which is not installed");
                return None;
            }
        }
        let files = Files(tempfile::tempdir().unwrap());
        files.write("key", KEY);
        files.write("other", OTHER);
        files.write("wrong", b"wrong");
        Some(files)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Runs cryptsetup in the folder; what it printed, and whether it was content.
    fn run(&self, arguments: &str) -> (String, bool) {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let folder: &Path = self.0.path();
        let output =
            Command::new("cryptsetup").current_dir(folder).arg("--batch-mode").args(&arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    }

    fn succeed(&self, arguments: &str) -> String {
        let (text, success) = self.run(arguments);
        assert!(success, "cryptsetup {arguments}: {text}");
        text
    }
}

const KEY: &[u8] = b"a key file\nwith a line's end\n";
const OTHER: &[u8] = b"\x00\x01binary\xff";

fn in_domain<T: 'static, F: Future<Output = T> + 'static>(run: impl FnOnce(Domain) -> F) -> T {
    let xen = Xen::new(1);
    let future = run(xen.domain());
    xen.run(future)
}

fn plaintext(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// What cryptsetup has encrypted, header and data, in several ways that a user may choose.
#[test]
fn cryptsetups_volumes_are_opened() {
    let Some(files) = Files::new() else { return };
    for (index, options) in [
        "--pbkdf argon2id --pbkdf-memory 65536 --pbkdf-force-iterations 4 --pbkdf-parallel 4",
        "--pbkdf argon2i --pbkdf-memory 4096 --pbkdf-force-iterations 5 --pbkdf-parallel 2 --sector-size 512",
        "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --hash sha512 --sector-size 4096",
        "--pbkdf pbkdf2 --pbkdf-force-iterations 3000 --hash sha256 --sector-size 1024",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("disk{index}");
        let plain = plaintext(1 << 20);
        let room = vec![0; 32 << 20];
        files.write(&name, &[plain.clone(), room].concat());
        // It moves the data to make room for the header.
        files.succeed(&format!(
            "reencrypt --encrypt --type luks2 --key-size 512 --reduce-device-size 32M --key-file key {options} {name}"
        ));
        let image = fs::read(files.path(&name)).unwrap();
        let (found, missing) = in_domain(async move |domain| {
            let disk = Image::new(&domain, image);
            let volume = Volume::load(disk, Limits::default()).await.unwrap();
            assert_eq!(volume.repair(), None);
            let missing = volume.open(b"wrong", domain.clone(), OpenOptions::default()).await.unwrap_err();
            let open = volume.open(KEY, domain, OpenOptions::default()).await.unwrap();
            (bytes_of(&open).await, missing)
        });
        assert!(found[..plain.len()] == plain, "{options}");
        assert_eq!(missing.to_string(), "No key available with this passphrase.");
    }
}

/// What was made and written here is decrypted by cryptsetup, byte by byte.
#[test]
fn cryptsetup_decrypts_ours() {
    let Some(files) = Files::new() else { return };
    let argon2 = Kdf::Argon2id(Argon2Cost { memory_kib: 8192, passes: 4, lanes: 1 });
    for (index, options) in [
        FormatOptions::default().with_sector_size(512).with_label("a label"),
        FormatOptions::default().with_sector_size(4096).with_kdf(argon2),
        FormatOptions::default().with_sector_size(2048).with_kdf(Kdf::Pbkdf2 { hash: Hash::Sha512, iterations: 1000 }),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("ours{index}");
        let plain = plaintext(2 << 20);
        let written = plain.clone();
        let (image, uuid) = in_domain(async move |domain| {
            let disk = Image::new(&domain, vec![0; 18 << 20]);
            let volume = Volume::format(disk.clone(), KEY, &options, &mut Random::new(7)).await.unwrap();
            let open = volume.open(KEY, domain, OpenOptions::default()).await.unwrap();
            open.write_bytes(0, &written).await.unwrap();
            (disk.bytes(), volume.uuid().to_owned())
        });
        files.write(&name, &image);
        let dump = files.succeed(&format!("luksDump {name}"));
        assert!(dump.contains(&uuid) && dump.contains("cipher: aes-xts-plain64"), "{dump}");
        files.succeed(&format!("luksOpen --test-passphrase --key-file key {name}"));
        assert!(!files.run(&format!("luksOpen --test-passphrase --key-file wrong {name}")).1);
        files.succeed(&format!(
            "reencrypt --decrypt --force-offline-reencrypt --header {name}.header --key-file key {name}"
        ));
        let decrypted = fs::read(files.path(&name)).unwrap();
        assert!(decrypted[..plain.len()] == plain, "{options:?}");
    }
}

/// Keys that either adds, changes and removes are the other's too.
#[test]
fn both_change_keys() {
    let Some(files) = Files::new() else { return };
    let quick = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000";
    files.write("disk", &vec![0; 17 << 20]);
    files.succeed(&format!("luksFormat --type luks2 {quick} --key-file key disk"));
    files.succeed(&format!("luksAddKey {quick} --key-file key disk other"));
    let image = fs::read(files.path("disk")).unwrap();
    let image = in_domain(async move |domain| {
        let disk = Image::new(&domain, image);
        let mut volume = Volume::load(disk.clone(), Limits::default()).await.unwrap();
        let random = &mut Random::new(3);
        assert_eq!(volume.info().keyslots, 2);
        assert_eq!(volume.remove_key(KEY, random).await, Ok(0));
        assert_eq!(volume.add_key(OTHER, b"third", Kdf::for_random_keys(), random).await, Ok(0));
        assert_eq!(volume.change_key(OTHER, b"fourth", Kdf::for_random_keys(), random).await, Ok(2));
        disk.bytes()
    });
    files.write("disk", &image);
    files.write("third", b"third");
    files.write("fourth", b"fourth");
    let opens = |key: &str| files.run(&format!("luksOpen --test-passphrase --key-file {key} disk")).1;
    assert_eq!(["key", "other", "third", "fourth"].map(opens), [false, false, true, true]);

    files.succeed("luksRemoveKey disk third");
    files.succeed(&format!("luksChangeKey {quick} --key-file fourth disk key"));
    files.succeed("config --priority prefer --key-slot 2 disk");
    let (text, success) = files.run("config --label marked disk");
    assert!(success, "{text}");
    let image = fs::read(files.path("disk")).unwrap();
    in_domain(async move |domain| {
        let volume = Volume::load(Image::new(&domain, image), Limits::default()).await.unwrap();
        assert_eq!((volume.label(), volume.info().keyslots), ("marked", 1));
        assert!(volume.open(b"fourth", domain.clone(), OpenOptions::default()).await.is_err());
        volume.open(KEY, domain, OpenOptions::default()).await.unwrap();
    });
}

/// A header that was repaired here is whole for cryptsetup, which repairs nothing more.
#[test]
fn repaired_headers_are_whole_for_cryptsetup() {
    let Some(files) = Files::new() else { return };
    for (kib, second) in [(16, 16 << 10), (128, 128 << 10)] {
        files.write("disk", &vec![0; 17 << 20]);
        let size = format!("--luks2-metadata-size {kib}k");
        files.succeed(&format!(
            "luksFormat --type luks2 {size} --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file key disk"
        ));
        for damaged in [100, second - 1, second + 100, second + 5000] {
            let mut image = fs::read(files.path("disk")).unwrap();
            image[damaged] ^= 1;
            let (image, repair) = in_domain(async move |domain| {
                let disk = Image::new(&domain, image);
                let volume = Volume::load(disk.clone(), Limits::default()).await.unwrap();
                (disk.bytes(), volume.repair().unwrap().to_string())
            });
            let places = if damaged < second { ["primary", "secondary"] } else { ["secondary", "primary"] };
            let [bad, good] = places;
            assert_eq!(repair, format!("LUKS2 {bad} header has a wrong checksum; restored from the {good} header"));
            files.write("disk", &image);
            let told = files.succeed("luksOpen --test-passphrase --key-file key disk --debug");
            assert!(!told.contains("checksum mismatch") && !told.to_lowercase().contains("recover"), "{told}");
        }
    }
}

/// What is not supported is refused by its name.
#[test]
fn features_that_are_not_supported_are_named() {
    let Some(files) = Files::new() else { return };
    let quick = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file key";
    for (arguments, expected) in [
        (
            format!("luksFormat --type luks1 {quick} disk"),
            "LUKS1 is not supported (`cryptsetup convert --type luks2` converts the header)",
        ),
        (
            format!("luksFormat --type luks2 --key-size 256 {quick} disk"),
            "a key of 256 bits is not supported, only 512 (AES-256 in XTS mode)",
        ),
        (
            format!("luksFormat --type luks2 --cipher aes-cbc-essiv:sha256 --key-size 256 {quick} disk"),
            "cipher aes-cbc-essiv:sha256 is not supported, only aes-xts-plain64",
        ),
        (
            format!("luksFormat --type luks2 --hash sha384 {quick} disk"),
            "hash sha384 is not supported, only sha256 and sha512",
        ),
    ] {
        files.write("disk", &vec![0; 18 << 20]);
        files.succeed(&arguments);
        let image = fs::read(files.path("disk")).unwrap();
        let told = in_domain(async move |domain| support::load(&domain, &image).await);
        assert_eq!(told, Err(expected.to_owned()), "{arguments}");
    }
    // The data is on another device.
    files.write("disk", &vec![0; 18 << 20]);
    files.write("header", &vec![0; 16 << 20]);
    files.succeed(&format!("luksFormat --type luks2 --header header {quick} disk"));
    let image = fs::read(files.path("header")).unwrap();
    let told = in_domain(async move |domain| support::load(&domain, &image).await);
    assert_eq!(told, Err("a detached header is not supported".to_owned()));
    // An encryption that was prepared, and not begun.
    files.write("disk", &vec![0; 40 << 20]);
    files.succeed(&format!("reencrypt --encrypt --init-only --type luks2 --reduce-device-size 32M {quick} disk"));
    let image = fs::read(files.path("disk")).unwrap();
    let told = in_domain(async move |domain| support::load(&domain, &image).await).unwrap_err();
    assert!(told.starts_with("requirement online-reencrypt") && told.contains("reencryption in progress"), "{told}");
    // Tokens and unbound keyslots.
    let fresh = || {
        files.write("disk", &vec![0; 18 << 20]);
        files.succeed(&format!("luksFormat --type luks2 {quick} disk"));
    };
    fresh();
    files.succeed("token add --key-description some:key disk");
    let image = fs::read(files.path("disk")).unwrap();
    let told = in_domain(async move |domain| support::load(&domain, &image).await).unwrap_err();
    assert!(told.starts_with("tokens are not supported"), "{told}");
    fresh();
    files.succeed(&format!("luksAddKey --unbound --key-size 512 {quick} disk other"));
    let image = fs::read(files.path("disk")).unwrap();
    let told = in_domain(async move |domain| support::load(&domain, &image).await).unwrap_err();
    assert_eq!(told, "unbound keyslots and digests are not supported");
}
