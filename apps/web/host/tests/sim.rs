//! What the server finds on its disk, on this machine, with an archive on a simulated one.

use sarab_site::Site;
use sarab_site::http::{Part, name, part};
use xen_blkif::BlockDevice;
use xen_blkif::ramdisk::RamDisk;
use xen_sim::check;

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_request_leads_to_its_file() {
    check("site", 10, |xen| {
        let domain = xen.domain();
        let bytes = archive(&[("index.html", b"<p>hello"), ("a/b.txt", b"text")]);
        xen.run(async move {
            let disk = RamDisk::new(domain, bytes.len() as u64 / 512).unwrap();
            disk.write_bytes(0, &bytes).await.unwrap();
            let site = Site::new(disk).await.unwrap();
            for (request, expected) in [("/", Some("<p>hello")), ("/a/b.txt", Some("text")), ("/a", None)] {
                let found = match site.open(&name(request).unwrap()).await.unwrap() {
                    None => None,
                    Some(mut file) => {
                        let mut found = vec![0; file.size() as usize];
                        let len = file.read(0, &mut found).await.unwrap();
                        Some(String::from_utf8(found[..len].to_vec()).unwrap())
                    }
                };
                assert_eq!(found.as_deref(), expected, "{request}");
            }
        });
    });
}

#[test]
fn nobody_leaves_the_site() {
    assert_eq!(name("/../etc/passwd"), None);
    assert_eq!(name("/%2e%2e/etc/passwd"), None);
    assert_eq!(part("bytes=0-9", 100), Part::Bytes(0..10));
}
