//! A shared folder with the site, where there is no disk with one.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use sarab::shares::{Error, Options, Share, ShareError};
use sarab::time::{Duration, Timer};
use sarab::{App, Disk, println};
use sarab_site::Site;

use crate::current::Current;
use crate::disk::{self, InUse};

/// Rings, and pages of each: files are served to many at a time.
const OPTIONS: Options = Options::USUAL.with_max_rings(2).with_max_ring_order(5);
/// The pause before the store is looked into again for a share that is gone.
const PAUSE: Duration = Duration::from_secs(2);

/// Serves the share that `share=` names, or the first one where there is no disk; otherwise what is on the first disk.
pub async fn keep(app: App, current: Rc<Current<Disk>>, in_use: InUse) {
    match choose(app).await {
        Ok(None) => disk::keep(app, current, in_use).await,
        Ok(Some(tag)) => loop {
            match app.share_with(&tag, OPTIONS).await {
                Ok(share) => follow(&share, &tag, &current).await,
                Err(error @ ShareError::Store(_)) => return nothing(&current, &format!("{error}")),
                Err(error) => nothing(&current, &format!("{error}")),
            }
            Timer::after(PAUSE).await;
        },
        Err(error) => nothing(&current, &format!("{error:#}")),
    }
}

async fn choose(app: App) -> sarab::Result<Option<String>> {
    if let Some(tag) = app.args().get::<&str>("share")? {
        return Ok(Some(tag.into()));
    }
    if !app.disk_names().await?.is_empty() {
        return Ok(None);
    }
    Ok(app.shares().await?.into_iter().next())
}

/// Serves the share for as long as it is there. While its server is away there is nothing to serve.
async fn follow(share: &Share, tag: &str, current: &Current<Disk>) {
    let mut session = share.session();
    loop {
        match session {
            Some(session) => {
                current.serve(Site::of_share(share.root()));
                println!("web: the share {tag} of {}", session.dialect);
            }
            None => nothing(current, &format!("share {tag}: its backend is gone, and is waited for")),
        }
        session = match share.changed(session).await {
            Ok(session) => session,
            Err(Error::Gone) => {
                if current.lose() {
                    println!("web: the share {tag} is gone");
                }
                return;
            }
            Err(error) => return nothing(current, &format!("share {tag}: {error}")),
        }
    }
}

/// Says that there is nothing to serve, once.
fn nothing(current: &Current<Disk>, why: &str) {
    if current.nothing(why) {
        println!("web: no site: {why}");
    }
}
