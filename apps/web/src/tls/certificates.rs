//! Where certificates and keys come from: not from the site, whose files everybody gets.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use sarab::time::{Duration, Timer};
use sarab::{App, Context, Disk, DiskError, bail, println};
use sarab_site::Site;
use sarab_tls::{Certificates, ServerOptions};

use super::{RECORD, Tls};

/// The file on a disk: certificates and keys, one behind the other, as PEM text.
const NAME: &str = "tls.pem";
const MAX_BYTES: u64 = 256 << 10;
/// What may be known of the disk's files.
const MEMORY: usize = 1 << 20;
/// The pause before a disk is tried again that could not be used; it is doubled.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Takes them from a file that the toolstack has loaded beside the domain.
pub fn from_module(app: App, tls: &Tls) -> sarab::Result {
    let modules = app.modules();
    let Some(text) = modules.iter().find(|module| module.windows(10).any(|bytes| bytes == b"-----BEGIN")) else {
        bail!(
            "argument cert=module: no file with PEM text was loaded; the xl file names it (ramdisk=\"/etc/xen/tls.pem\")"
        );
    };
    use_text(app, tls, text).context("argument cert=module")
}

/// Takes them from a disk, and again from each disk that comes in its place. Connections that there are go on.
pub async fn keep(app: App, tls: Rc<Tls>, name: &str) {
    if let Err(error) = follow(app, &tls, name).await {
        println!("web: no certificates: {error:#}");
    }
}

/// Ends only where there is no store, or none any more, or the disk's name is none.
async fn follow(app: App, tls: &Tls, name: &str) -> sarab::Result {
    let mut watch = app.store()?.watch_any("device/vbd").await?;
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        match app.disk(name).await {
            Ok(disk) => {
                (pause, told) = (FIRST_PAUSE, true);
                read(app, tls, &disk).await;
                continue;
            }
            // Those of before are used on.
            Err(DiskError::None | DiskError::NoDisk(_)) if told => {}
            Err(error @ (DiskError::None | DiskError::NoDisk(_))) => {
                told = true;
                println!("web: no certificates: {error}");
            }
            Err(DiskError::Gone(_)) => {
                Timer::after(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
            Err(error) => return Err(error.into()),
        }
        if watch.next().await.is_none() {
            return Ok(());
        }
    }
}

/// Reads them from a disk until that is removed, and anew where it may be another one.
async fn read(app: App, tls: &Tls, disk: &Disk) {
    loop {
        let generation = disk.generation();
        let read = match text(disk).await {
            Ok(text) => use_text(app, tls, &text),
            Err(error) => Err(error),
        };
        match read {
            Err(error) if !disk.has_ended() => println!("web: no certificates from disk {}: {error:#}", disk.name()),
            _ => {}
        }
        if !disk.renewed(&generation).await {
            return;
        }
    }
}

async fn text(disk: &Disk) -> sarab::Result<Vec<u8>> {
    let site = Site::new(disk.clone(), MEMORY).await?;
    let Some(mut file) = site.open(NAME).await? else { bail!("there is no file {NAME} in its {}", site.format()) };
    if file.size() > MAX_BYTES {
        bail!("{NAME} has {} bytes, and may have {MAX_BYTES}", file.size());
    }
    let mut text = vec![0; file.size() as usize];
    let mut filled = 0;
    while filled < text.len() {
        match file.read(filled as u64, &mut text[filled..]).await? {
            0 => bail!("{NAME} ends after {filled} bytes"),
            len => filled += len,
        }
    }
    Ok(text)
}

fn use_text(app: App, tls: &Tls, text: &[u8]) -> sarab::Result {
    let certificates = Certificates::new().with_bundle(text)?;
    let names = certificates.names().join(", ");
    let server = tls.server.borrow().clone();
    match server {
        Some(server) => {
            server.replace(certificates)?;
            println!("web: HTTPS on port {} with other certificates, for {names}", tls.port);
        }
        None => {
            let mut options = ServerOptions::default();
            options.alpn = vec![b"http/1.1".to_vec()];
            options.limits.record = RECORD;
            let clock = app.clock();
            let server = sarab_tls::Server::new(certificates, options, move || clock.wall())?;
            tls.server.replace(Some(Rc::new(server)));
            tls.changed.wake_all();
            println!("web: HTTPS on port {} for {names}", tls.port);
        }
    }
    Ok(())
}
