//! Volumes against models: data, keys, and headers that are damaged or of something else.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures_util::future::{Either, join_all, select};
use sarab_luks::{Argon2Cost, Encrypted, Error, FormatOptions, Hash, Kdf, Limits, OpenOptions, Place, Volume};
use xen_blkif::faulty::{DeviceRequest, Faulty};
use xen_blkif::{BlockDevice, Buffer, Discard};
use xen_sim::{Domain, Xen, check};
use xenbus::yield_now;

mod support;

use support::{DATA, Image, Random, bytes_of, copy, json, load, put_json, quick, roomy, seal, volume};

const KEY: &[u8] = b"correct horse";
const QUICK: Kdf = Kdf::for_random_keys();

async fn open(volume: &Volume<Image<Domain>>, domain: &Domain) -> Encrypted<Image<Domain>, Domain> {
    volume.open(KEY, domain.clone(), OpenOptions::default()).await.unwrap()
}

/// Runs a test in a domain, once.
fn once<F: Future<Output = ()> + 'static>(run: impl FnOnce(Domain) -> F) {
    let xen = Xen::new(1);
    let future = run(xen.domain());
    xen.run(future);
}

/// Reads and writes of any sectors, many at once, are those of a disk; what is on the disk below is nothing of it, and after
/// it was opened again everything is there.
#[test]
fn data_is_kept() {
    check("data is kept", 12, |xen| {
        let domain = xen.domain();
        let random = RefCell::new(Random::new(xen.seed()));
        xen.run(async move {
            let below = [|| 512, || 4096][random.borrow_mut().below(2) as usize]();
            let sector_size = [512, 1024, 2048, 4096][random.borrow_mut().below(4) as usize];
            let options = quick().with_sector_size(sector_size);
            let image =
                Image::new(&domain, vec![0x55; DATA + (512 << 10)]).with(|geometry| geometry.with_sector_size(below));
            let volume =
                Volume::format(image.clone(), KEY, &options, &mut Random::new(xen_seed(&random))).await.unwrap();
            let disk = open(&volume, &domain).await;
            let unit = disk.geometry().sector_size as usize;
            assert_eq!(unit as u32, below.max(sector_size));
            let mut model = bytes_of(&disk).await;
            assert_eq!(model.len(), DATA);
            for _ in 0..6 {
                // Requests that do not overlap, at once.
                let count = 1 + random.borrow_mut().below(4) as usize;
                let part = DATA / count / unit * unit;
                let requests = (0..count).map(|index| {
                    let mut random = random.borrow_mut();
                    let start = random.below((part / unit) as u64) as usize * unit;
                    let len = (1 + random.below(((part - start) / unit) as u64) as usize) * unit;
                    (index * part + start, vec![random.below(256) as u8; len], random.below(2) == 0)
                });
                let requests: Vec<_> = requests.collect();
                let run = join_all(requests.iter().map(async |(at, bytes, write)| {
                    let buffer = disk.buffer(bytes.len()).unwrap();
                    let sector = (at / 512) as u64;
                    let buffer = match write {
                        true => {
                            buffer.write(0, bytes);
                            let (buffer, outcome) = disk.write(sector, buffer).await;
                            outcome.unwrap();
                            buffer
                        }
                        false => {
                            let (buffer, outcome) = disk.read(sector, buffer).await;
                            outcome.unwrap();
                            buffer
                        }
                    };
                    let mut found = vec![0; bytes.len()];
                    buffer.read(0, &mut found);
                    found
                }));
                let found = run.await;
                for ((at, bytes, write), found) in requests.iter().zip(found) {
                    if *write {
                        assert!(found == *bytes, "the caller's buffer is as it was");
                        model[*at..at + bytes.len()].copy_from_slice(bytes);
                    } else {
                        assert!(found == model[*at..at + bytes.len()], "{} bytes at {at}", bytes.len());
                    }
                }
            }
            disk.flush().await.unwrap();
            let stored = image.bytes();
            for (plain, stored) in model.chunks(16).zip(stored[512 << 10..].chunks(16)) {
                assert_ne!(plain, stored);
            }
            let again = Volume::load(image, Limits::default()).await.unwrap();
            assert!(bytes_of(&open(&again, &domain).await).await == model);
        });
    });
}

fn xen_seed(random: &RefCell<Random>) -> u64 {
    random.borrow_mut().below(u64::MAX)
}

/// The buffers that the device below gets hold nothing but what is encrypted, before and after: a backend may have them mapped.
#[test]
fn no_plaintext_reaches_the_device_below() {
    /// A device that looks at its buffers.
    #[derive(Clone)]
    struct Watched(Image<Domain>, Rc<Cell<bool>>);

    const SECRET: [u8; 32] = *b"this must not be seen by anybody";

    impl Watched {
        fn look(&self, buffer: &impl Buffer) {
            let mut bytes = vec![0; buffer.len()];
            buffer.read(0, &mut bytes);
            self.1.set(self.1.get() || bytes.windows(32).any(|part| part == SECRET));
        }
    }

    impl BlockDevice for Watched {
        type Buffer = Kept;

        fn geometry(&self) -> xen_blkif::Geometry {
            self.0.geometry()
        }

        fn buffer(&self, len: usize) -> Result<Kept, xen_blkif::Error> {
            Ok(Kept(Some(self.0.buffer(len)?), self.clone()))
        }

        async fn read(&self, sector: u64, mut kept: Kept) -> xen_blkif::Completed<Kept> {
            let (buffer, outcome) = self.0.read(sector, kept.0.take().unwrap()).await;
            (Kept(Some(buffer), self.clone()), outcome)
        }

        async fn write(&self, sector: u64, mut kept: Kept) -> xen_blkif::Completed<Kept> {
            let (buffer, outcome) = self.0.write(sector, kept.0.take().unwrap()).await;
            (Kept(Some(buffer), self.clone()), outcome)
        }

        async fn flush(&self) -> Result<(), xen_blkif::Error> {
            self.0.flush().await
        }

        async fn discard(&self, sector: u64, count: u64, secure: bool) -> Result<(), xen_blkif::Error> {
            self.0.discard(sector, count, secure).await
        }

        async fn changed(&self, known: &xen_blkif::Geometry) -> xen_blkif::Geometry {
            self.0.changed(known).await
        }
    }

    /// A buffer that is looked at when it is given back.
    struct Kept(Option<<Image<Domain> as BlockDevice>::Buffer>, Watched);

    impl Buffer for Kept {
        fn len(&self) -> usize {
            self.0.as_ref().unwrap().len()
        }

        fn page(&self, index: usize) -> &xen_ring::SharedMemory {
            self.0.as_ref().unwrap().page(index)
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.0.iter().for_each(|buffer| self.1.look(buffer));
        }
    }

    once(async |domain| {
        let seen = Rc::new(Cell::new(false));
        let disk = Watched(Image::new(&domain, vec![0; DATA + (512 << 10)]), seen.clone());
        let volume = Volume::format(disk.clone(), KEY, &quick(), &mut Random::new(1)).await.unwrap();
        let open = volume.open(KEY, domain, OpenOptions::default()).await.unwrap();
        let secret = SECRET.repeat(DATA / 2 / 32);
        open.write_bytes(8, &secret).await.unwrap();
        let mut found = vec![0; secret.len()];
        open.read_bytes(8, &mut found).await.unwrap();
        assert!(found == secret);
        assert!(!seen.get(), "plaintext in a buffer of the device below");
        // What is looked for would be found.
        disk.write_bytes(0, &SECRET.repeat(16)).await.unwrap();
        assert!(seen.get());
    });
}

#[test]
fn keys_come_and_go() {
    once(async |domain| {
        let random = &mut Random::new(5);
        let mut volume = volume(&domain, &FormatOptions::default().with_kdf(QUICK), KEY).await;
        let opens = async |volume: &Volume<Image<Domain>>, key: &[u8]| {
            let again = Volume::load(volume.device().clone(), Limits::default()).await.unwrap();
            let [one, other] = [volume, &again].map(|volume| volume.open(key, domain.clone(), OpenOptions::default()));
            let (one, other) = (one.await.map(drop), other.await.map(drop));
            assert_eq!(one, other);
            one
        };
        assert_eq!(opens(&volume, b"wrong").await, Err(Error::NoKey));
        assert_eq!(opens(&volume, b"").await, Err(Error::EmptyKey));
        assert_eq!(volume.remove_key(KEY, random).await, Err(Error::LastKeyslot));
        assert_eq!(volume.add_key(b"wrong", b"second", QUICK, random).await, Err(Error::NoKey));
        assert_eq!(volume.add_key(KEY, b"", QUICK, random).await, Err(Error::EmptyKey));
        let argon2i = Kdf::Argon2i(Argon2Cost { memory_kib: 64, passes: 4, lanes: 2 });
        assert_eq!(volume.add_key(KEY, b"second", argon2i, random).await, Ok(1));
        assert_eq!(
            volume.change_key(KEY, b"third", Kdf::Pbkdf2 { hash: Hash::Sha512, iterations: 1000 }, random).await,
            Ok(2)
        );
        assert_eq!(opens(&volume, KEY).await, Err(Error::NoKey));
        assert_eq!((opens(&volume, b"second").await, opens(&volume, b"third").await), (Ok(()), Ok(())));
        assert_eq!(volume.remove_keyslot(0, random).await, Err(Error::NoSuchKeyslot(0)));
        assert_eq!(volume.remove_key(b"second", random).await, Ok(1));
        assert_eq!(opens(&volume, b"second").await, Err(Error::NoKey));
        for number in (0..32).filter(|number| *number != 2) {
            assert_eq!(volume.add_key(b"third", &[number; 9], QUICK, random).await, Ok(number));
        }
        assert_eq!(volume.add_key(b"third", b"one more", QUICK, random).await, Err(Error::NoFreeKeyslot));
        assert_eq!(volume.keyslots().count(), 32);
        assert_eq!(opens(&volume, &[31; 9]).await, Ok(()));
        // An area for one keyslot alone.
        let mut small = support::volume(&domain, &quick(), KEY).await;
        assert_eq!(small.add_key(KEY, b"second", QUICK, random).await, Err(Error::NoFreeKeyslot));
        for (kdf, name) in [
            (Kdf::Pbkdf2 { hash: Hash::Sha256, iterations: 999 }, "iterations"),
            (Kdf::Argon2id(Argon2Cost { memory_kib: 64, passes: 3, lanes: 1 }), "passes"),
            (Kdf::Argon2id(Argon2Cost { memory_kib: 64, passes: 4, lanes: 5 }), "lanes"),
            (Kdf::Argon2id(Argon2Cost { memory_kib: 8, passes: 4, lanes: 1 }), "memory_kib"),
        ] {
            let refused = volume.change_key(b"third", b"fourth", kdf, random).await.unwrap_err();
            assert!(matches!(refused, Error::Option { name: found, .. } if found == name), "{refused}");
        }
    });
}

/// Whatever write is the last that reaches the disk, the volume is there afterwards, and one of the keys opens it.
#[test]
fn a_change_may_be_interrupted_anywhere() {
    once(async |domain| {
        let mut finished = false;
        for last in 0.. {
            let volume = volume(&domain, &roomy(), KEY).await;
            let image = volume.device().clone();
            let left = Rc::new(Cell::new(last));
            let failing = left.clone();
            let faulty = Faulty::new(image.clone(), async move |request| match (request, failing.get()) {
                (DeviceRequest::Write(..), 0) => Err(xen_blkif::Error::Gone),
                (DeviceRequest::Write(..), writes) => {
                    failing.set(writes - 1);
                    Ok(())
                }
                _ => Ok(()),
            });
            let mut changed = Volume::load(faulty, Limits::default()).await.unwrap();
            let outcome = changed.change_key(KEY, b"new", QUICK, &mut Random::new(9)).await;
            let again = Volume::load(image, Limits::default()).await.unwrap();
            let opens = [KEY, b"new"].map(|key| again.open(key, domain.clone(), OpenOptions::default()));
            let [old, new] = opens;
            let (old, new) = (old.await.is_ok(), new.await.is_ok());
            assert!(old || new, "after {last} writes");
            assert!(again.repair().is_none_or(|repair| repair.written));
            if outcome.is_ok() {
                assert!(!old && new);
                finished = true;
                break;
            }
        }
        assert!(finished);
    });
}

/// A copy that is damaged anywhere is restored from the other; both damaged are refused.
#[test]
fn damaged_headers_are_repaired() {
    once(async |domain| {
        let whole = volume(&domain, &quick(), KEY).await.device().bytes();
        assert_eq!(load(&domain, &whole).await, Ok(None));
        // Each byte of the binary header, and some of the rest.
        let places = (0..512).chain((512..16 << 10).step_by(397));
        for at in places {
            for (place, start) in [(Place::Primary, 0), (Place::Secondary, 16 << 10)] {
                let mut image = whole.clone();
                image[start + at] ^= 0x10;
                let disk = Image::new(&domain, image);
                let loaded = Volume::load(disk.clone(), Limits::default()).await;
                let volume = match loaded {
                    Ok(volume) => volume,
                    // A version that the first copy alone has.
                    Err(Error::Unsupported(feature)) if at == 6 || at == 7 => {
                        assert!(feature.to_string().contains("version"), "{feature}");
                        continue;
                    }
                    Err(error) => panic!("byte {at} of the {place} header: {error}"),
                };
                let repair = volume.repair().unwrap_or_else(|| panic!("byte {at} of the {place} header"));
                assert!(repair.place == place && repair.written && repair.problem.is_some());
                assert!(disk.bytes() == whole, "byte {at} of the {place} header");
            }
        }
        let mut image = whole.clone();
        image[0] ^= 1;
        image[20_000] ^= 1;
        let told = load(&domain, &image).await.unwrap_err();
        assert_eq!(
            told,
            "both LUKS2 headers are damaged: the primary has no LUKS signature, the secondary has a wrong checksum"
        );
        image[16 << 10] ^= 1;
        assert_eq!(
            load(&domain, &image).await.unwrap_err(),
            "the device is not a valid LUKS device: it has no LUKS header"
        );
        assert_eq!(
            load(&domain, &[]).await.unwrap_err(),
            "the device is not a valid LUKS device: it has no LUKS header"
        );
        // An older copy gives way, and a device that cannot be written stays as it is.
        for secondary in [false, true] {
            let mut image = whole.clone();
            let old = &mut image[copy(secondary)];
            old[23] -= 1;
            seal(old);
            let disk = Image::new(&domain, image.clone()).with(|geometry| geometry.with_read_only(true));
            let volume = Volume::load(disk.clone(), Limits::default()).await.unwrap();
            let repair = volume.repair().unwrap();
            assert!(!repair.written && disk.bytes() == image);
            let [old, new] = if secondary { ["secondary", "primary"] } else { ["primary", "secondary"] };
            let text = format!(
                "LUKS2 {old} header is older than the {new} one; the {new} header is used, nothing was written"
            );
            assert_eq!(repair.to_string(), text);
            let text = format!("LUKS2 {old} header is older than the {new} one; restored from the {new} header");
            assert_eq!(load(&domain, &image).await, Ok(Some(text)));
        }
        // A device that is cut off.
        for len in [4096, 8192] {
            assert!(load(&domain, &whole[..len]).await.unwrap_err().starts_with("both LUKS2 headers are damaged"));
        }
        for len in [16 << 10, 20 << 10] {
            let text = "LUKS2 secondary header reaches past the end of the device; the primary header is used, nothing was written";
            assert_eq!(load(&domain, &whole[..len]).await, Ok(Some(text.to_owned())));
        }
        let cut = Image::new(&domain, whole[..512 << 10].to_vec());
        let volume = Volume::load(cut, Limits::default()).await.unwrap();
        let refused = volume.open(KEY, domain, OpenOptions::default()).await.unwrap_err();
        assert!(matches!(refused, Error::TooSmall { bytes: 524_288, .. }), "{refused}");
    });
}

/// Metadata with right checksums that is wrong, or of what is not supported.
#[test]
fn wrong_metadata_is_refused_in_words() {
    once(async |domain| {
        let image = volume(&domain, &roomy(), KEY).await.device().bytes();
        let whole = json(&image[copy(false)]);
        for (from, to, expected) in [
            (whole.as_str(), "{", "LUKS2 metadata: the JSON area: not valid JSON"),
            (&whole, "[]", "LUKS2 metadata: the JSON area: no object"),
            (&whole, "{}", "LUKS2 metadata: config: there is none"),
            (
                "\"tokens\":{}",
                "\"tokens\":{\"0\":{}}",
                "tokens are not supported (`cryptsetup token remove` removes one)",
            ),
            ("\"tokens\":{}", "\"tokens\":0", "LUKS2 metadata: tokens: no object where one should be"),
            (
                "\"json_size\":\"12288\"",
                "\"json_size\":\"12287\"",
                "LUKS2 metadata: config: json_size is not the header's",
            ),
            ("\"json_size\":\"12288\"", "\"json_size\":\"+12288\"", "LUKS2 metadata: config: no json_size"),
            (
                "\"json_size\"",
                "\"requirements\":{\"mandatory\":[\"online-reencrypt-v2\"]},\"json_size\"",
                "requirement online-reencrypt-v2 is not supported (is a reencryption in progress?)",
            ),
            (
                "\"keyslots_size\":\"1015808\"",
                "\"keyslots_size\":\"1015809\"",
                "LUKS2 metadata: config: invalid keyslots_size",
            ),
            (
                "\"keyslots_size\":\"1015808\"",
                "\"keyslots_size\":\"1019904\"",
                "LUKS2 metadata: segments: the data overlaps the keyslots' areas",
            ),
            ("\"offset\":\"1048576\"", "\"offset\":\"0\"", "a detached header is not supported"),
            ("\"offset\":\"1048576\"", "\"offset\":\"18446744073709551616\"", "LUKS2 metadata: segments: no offset"),
            (
                "\"segments\":{\"0\":{",
                "\"segments\":{\"1\":{\"type\":\"linear\"},\"0\":{",
                "several or other data segments than one of type crypt are not supported (is a reencryption in progress?)",
            ),
            (
                "\"type\":\"crypt\"",
                "\"type\":\"crypt\",\"integrity\":{\"type\":\"hmac(sha256)\"}",
                "integrity tags are not supported",
            ),
            (
                "\"sector_size\":512",
                "\"sector_size\":8192",
                "LUKS2 metadata: segments: sector_size is not 512, 1024, 2048 or 4096",
            ),
            (
                "\"size\":\"dynamic\"",
                "\"size\":\"100\"",
                "LUKS2 metadata: segments: offset or size are not of whole sectors",
            ),
            (
                "\"type\":\"luks2\"",
                "\"type\":\"reencrypt\"",
                "keyslot type reencrypt is not supported (is a reencryption in progress?)",
            ),
            (
                "\"type\":\"raw\"",
                "\"type\":\"checksum\"",
                "keyslot area type checksum is not supported (is a reencryption in progress?)",
            ),
            (
                "\"stripes\":4000",
                "\"stripes\":1",
                "LUKS2 metadata: keyslots: another anti-forensic splitter than luks1 with 4000 stripes",
            ),
            (
                "\"offset\":\"32768\"",
                "\"offset\":\"28672\"",
                "LUKS2 metadata: keyslots: an area is not inside of the keyslots' area, too small or not aligned",
            ),
            (
                "\"offset\":\"32768\"",
                "\"offset\":\"18446744073709547520\"",
                "LUKS2 metadata: keyslots: an area is not inside of the keyslots' area, too small or not aligned",
            ),
            ("\"keyslots\":{\"0\"", "\"keyslots\":{\"00\"", "LUKS2 metadata: keyslots: a number that is not 0 to 31"),
            ("\"keyslots\":{\"0\"", "\"keyslots\":{\"1\"", "unbound keyslots and digests are not supported"),
            (
                "\"keyslots\":[\"0\"]",
                "\"keyslots\":[\"0\",\"1\"]",
                "LUKS2 metadata: digests: it names a keyslot that there is not",
            ),
            ("\"keyslots\":[\"0\"]", "\"keyslots\":[]", "unbound keyslots and digests are not supported"),
            (
                "\"hash\":\"sha256\"",
                "\"hash\":\"whirl\\u001bpool\"",
                "hash whirl?pool is not supported, only sha256 and sha512",
            ),
            ("\"iterations\":1000", "\"iterations\":0", "LUKS2 metadata: "),
            ("\"iterations\":1000", "\"iterations\":-1", "LUKS2 metadata: "),
            ("\"iterations\":1000", "\"iterations\":4294967296", "LUKS2 metadata: "),
        ] {
            assert!(whole.contains(from), "{from} in {whole}");
            let mut image = image.clone();
            put_json(&mut image, &whole.replace(from, to));
            let told = load(&domain, &image).await.unwrap_err();
            assert!(told.starts_with(expected) && (told == expected || expected.ends_with(' ')), "{to}: {told}");
        }
        // Depth and size have bounds.
        let mut deep = image.clone();
        put_json(&mut deep, &"[".repeat(12_000));
        assert_eq!(load(&domain, &deep).await.unwrap_err(), "LUKS2 metadata: the JSON area: not valid JSON");
        let size = 128 << 10;
        let mut large = vec![0; 512 << 10];
        for (index, copy) in large[..2 * size].chunks_mut(size).enumerate() {
            copy[..4096].copy_from_slice(&image[index * (16 << 10)..][..4096]);
            copy[8..16].copy_from_slice(&(size as u64).to_be_bytes());
            copy[256..264].copy_from_slice(&((index * size) as u64).to_be_bytes());
            copy[4096..][..70_000].fill(b' ');
            seal(copy);
        }
        assert_eq!(load(&domain, &large).await.unwrap_err(), "metadata of more than 64 KiB is not supported");
        // Fields that nobody here knows stay when a key is added.
        let mut more = image.clone();
        put_json(&mut more, &whole.replace("\"json_size\"", "\"flags\":[\"allow-discards\"],\"json_size\""));
        let disk = Image::new(&domain, more);
        let mut volume = Volume::load(disk.clone(), Limits::default()).await.unwrap();
        volume.add_key(KEY, b"second", QUICK, &mut Random::new(2)).await.unwrap();
        assert!(json(&disk.bytes()[copy(false)]).contains("\"flags\":[\"allow-discards\"]"));
    });
}

/// Costs beyond the limits are refused before they are paid, and do not hide another keyslot.
#[test]
fn costs_have_limits() {
    once(async |domain| {
        let argon2 = Kdf::Argon2id(Argon2Cost { memory_kib: 1024, passes: 4, lanes: 1 });
        let mut volume = volume(&domain, &roomy().with_kdf(argon2), KEY).await;
        volume.add_key(KEY, b"second", QUICK, &mut Random::new(3)).await.unwrap();
        for (limits, expected) in [
            (
                Limits::default().with_argon2_memory_kib(1023),
                "keyslot 0 asks for 1024 KiB of memory for Argon2, the limit is 1023 KiB \
                 (`cryptsetup luksConvertKey --pbkdf-memory 1023` lowers it)",
            ),
            (
                Limits::default().with_argon2_work_kib(4095),
                "keyslot 0 asks for Argon2 over 4096 KiB in all passes, the limit is 4095 KiB \
                 (`cryptsetup luksConvertKey --pbkdf-force-iterations` lowers it)",
            ),
        ] {
            let limited = Volume::load(volume.device().clone(), limits).await.unwrap();
            let refused = limited.open(KEY, domain.clone(), OpenOptions::default()).await.unwrap_err();
            assert_eq!(refused.to_string(), expected);
            limited.open(b"second", domain.clone(), OpenOptions::default()).await.unwrap();
        }
        // A header from elsewhere.
        let mut image = volume.device().bytes();
        let asks = json(&image[copy(false)]).replace("\"memory\":1024", "\"memory\":4294967295");
        put_json(&mut image, &asks);
        let hostile = Volume::load(Image::new(&domain, image.clone()), Limits::default()).await.unwrap();
        let refused = hostile.open(KEY, domain.clone(), OpenOptions::default()).await.unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("keyslot 0 asks for 4294967295 KiB of memory for Argon2, the limit is 1048576 KiB")
        );
        put_json(&mut image, &asks.replace("\"iterations\":1000", "\"iterations\":4000000000"));
        let hostile = Volume::load(Image::new(&domain, image), Limits::default()).await.unwrap();
        let refused = hostile.open(b"second", domain, OpenOptions::default()).await.unwrap_err();
        assert!(refused.to_string().starts_with("the volume key's digest asks for 4000000000 iterations of PBKDF2"));
    });
}

/// A request that takes long, and a derivation, let other tasks run.
#[test]
fn long_work_yields() {
    once(async |domain| {
        let options = quick().with_kdf(Kdf::Pbkdf2 { hash: Hash::Sha256, iterations: 50_000 });
        let image = Image::new(&domain, vec![0; 5 << 20]);
        let volume = Volume::format(image, KEY, &options, &mut Random::new(1)).await.unwrap();
        let turns = Cell::new(0);
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                yield_now().await;
            }
        };
        let work = async {
            let disk = open(&volume, &domain).await;
            let derived = turns.replace(0);
            let (_, outcome) = disk.write(0, disk.buffer(4 << 20).unwrap()).await;
            outcome.unwrap();
            (derived, turns.get())
        };
        let Either::Left(((derived, written), _)) = select(Box::pin(work), Box::pin(others)).await;
        assert!(derived >= 20, "{derived} turns of others in a derivation of 50000 iterations");
        assert!(written >= 4, "{written} turns of others in a write of 4 MiB");
    });
}

#[test]
fn the_geometry_is_that_of_the_data() {
    once(async |domain| {
        let discard = Some(Discard::new(1 << 20).with_alignment(4096));
        let image = Image::new(&domain, vec![0; 2 << 20]).with(|geometry| geometry.with_discard(discard));
        let volume =
            Volume::format(image.clone(), KEY, &quick().with_sector_size(4096), &mut Random::new(1)).await.unwrap();
        let disk = open(&volume, &domain).await;
        let geometry = disk.geometry();
        assert_eq!((geometry.sectors, geometry.sector_size, geometry.flush), (3072, 4096, true));
        assert_eq!(geometry.discard, None);
        assert_eq!(disk.discard(0, 8, false).await, Err(xen_blkif::Error::Unsupported("discard")));
        assert_eq!(
            disk.write_bytes(0, &[0; 512]).await,
            Err(xen_blkif::Error::Unaligned { sector: 0, len: 512, sector_size: 4096 })
        );
        assert!(matches!(
            disk.write_bytes(3072, &[0; 4096]).await,
            Err(xen_blkif::Error::OutOfRange { sectors: 3072, .. })
        ));

        let allowed = OpenOptions::default().with_allow_discards(true);
        let disk = volume.open(KEY, domain.clone(), allowed).await.unwrap();
        // The device's multiples of 1 MiB begin at 4096; the data begins at 512 KiB.
        assert_eq!(disk.geometry().discard, Some(Discard::new(1 << 20).with_alignment((512 << 10) + 4096)));
        disk.discard(8, 8, false).await.unwrap();
        let stored = image.bytes();
        let at = (512 << 10) + 4096;
        assert!(stored[at..at + 4096] == [0xdd; 4096] && stored[at - 1] != 0xdd && stored[at + 4096] != 0xdd);

        let read_only = volume.open(KEY, domain.clone(), OpenOptions::default().with_read_only(true)).await.unwrap();
        assert!(read_only.geometry().read_only);
        assert_eq!(read_only.write_bytes(0, &[0; 4096]).await, Err(xen_blkif::Error::ReadOnly));

        // A device that grows, by less than a sector of the volume's at last.
        let known = disk.geometry();
        image.bytes.borrow_mut().resize((3 << 20) + 512, 0);
        image.geometry.set(image.geometry.get().with_sectors((3 << 11) + 1));
        assert_eq!(disk.changed(&known).await.sectors, 5120);

        for (offset, sector_size, name) in
            [(290_815, 512, "data_offset"), (1 << 40, 512, "data_offset"), (1 << 20, 600, "sector_size")]
        {
            let options = quick().with_data_offset(offset).with_sector_size(sector_size);
            let refused =
                Volume::format(image.clone(), KEY, &options, &mut Random::new(1)).await.map(drop).unwrap_err();
            assert!(matches!(refused, Error::Option { name: found, .. } if found == name), "{refused}");
        }
        let options = FormatOptions::default().with_kdf(QUICK);
        let refused = Volume::format(image, KEY, &options, &mut Random::new(1)).await.map(drop).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the device of 3146240 bytes is too small for the LUKS2 volume, which needs 16777728"
        );
    });
}

#[test]
fn errors_of_the_device_are_told() {
    once(async |domain| {
        let volume = volume(&domain, &quick(), KEY).await;
        let bad = (512 << 10) / 512 + 9;
        let faulty = Faulty::new(volume.device().clone(), async move |request| match request {
            DeviceRequest::Read(first, count) | DeviceRequest::Write(first, count)
                if (first..first + count).contains(&bad) =>
            {
                Err(xen_blkif::Error::Failed { operation: "reach", sector: bad })
            }
            _ => Ok(()),
        });
        let disk = Volume::load(faulty, Limits::default())
            .await
            .unwrap()
            .open(KEY, domain, OpenOptions::default())
            .await
            .unwrap();
        let expected = Err(xen_blkif::Error::Failed { operation: "reach", sector: 9 });
        assert_eq!(disk.read_bytes(8, &mut [0; 1024]).await, expected);
        assert_eq!(disk.write_bytes(8, &[0; 1024]).await, expected);
        assert_eq!(disk.write_bytes(10, &[0; 1024]).await, Ok(()));
    });
}
