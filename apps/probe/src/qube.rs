//! A qube without an interface to people: it follows QubesDB, and serves calls.
//!
//! What dom0 writes below `/ask` it writes below `/told`. Its services: `lab.Cat` sends back what it reads, `lab.Call+NAME` calls
//! a service of dom0's, and those of a suspend are printed.

use alloc::format;
use alloc::string::String;

use sarab::qubes::{Agent, Call, Change, Database, ExitCode, Request, Session};
use sarab::{App, println};

use crate::text;

pub async fn run(app: App) -> Result<(), String> {
    // The handler calls services, too: it needs the agent that it is given to.
    let agent = alloc::rc::Rc::new(core::cell::OnceCell::<Agent>::new());
    let own = agent.clone();
    let handler = async move |call: Call, session: &mut Session| serve(own.get(), call, session).await;
    let _ = agent.set(app.qubes_agent(handler).map_err(text)?);
    let db = app.qubes_database().map_err(text)?;
    db.ready().await.map_err(text)?;
    println!("qube: {} has {} entries", db.text("/name").unwrap_or_default(), db.list("/").len());
    app.spawn(follow(db.clone())).detach();
    println!("qube: asked to {}", app.shutdown().await);
    Ok(())
}

async fn follow(db: Database) {
    let mut changes = db.watch("/");
    while let Some(change) = changes.next().await {
        println!("qube: {change:?}");
        let Change::Written(path) = change else { continue };
        if let (Some(name), Some(value)) = (path.strip_prefix("/ask/"), db.get(&path))
            && let Err(error) = db.write(&format!("/told/{name}"), &value).await
        {
            println!("qube: {path}: {error}");
        }
    }
}

async fn serve(agent: Option<&Agent>, call: Call, session: &mut Session) -> ExitCode {
    println!("qube: {call:?}");
    match answer(agent, call, session).await {
        Ok(code) => code,
        Err(error) => {
            println!("qube: {error}");
            ExitCode::PROBLEM
        }
    }
}

async fn answer(agent: Option<&Agent>, call: Call, session: &mut Session) -> Result<ExitCode, String> {
    let Request::Service { name, argument, .. } = call.request else { return Ok(ExitCode::NOT_FOUND) };
    match (name.as_str(), argument.as_deref()) {
        ("lab.Cat", _) => {
            let mut bytes = [0; 3000];
            loop {
                let len = session.read(&mut bytes).await.map_err(text)?;
                if len == 0 {
                    break;
                }
                session.write(&bytes[..len]).await.map_err(text)?;
            }
            session.write_error(b"done\n").await.map_err(text)?;
            Ok(ExitCode(3))
        }
        ("lab.Call", Some(service)) => {
            let agent = agent.ok_or("no agent")?;
            let mut remote = match agent.call("dom0", service).await {
                Ok(remote) => remote,
                Err(error) => {
                    session.write_error(format!("{error}\n").as_bytes()).await.map_err(text)?;
                    return Ok(ExitCode::REFUSED);
                }
            };
            remote.write(b"question\n").await.map_err(text)?;
            let collected = remote.collect(1024).await.map_err(text)?;
            session.write(&collected.stdout).await.map_err(text)?;
            Ok(collected.exit)
        }
        ("qubes.SuspendPreAll" | "qubes.SuspendPre" | "qubes.SuspendPost" | "qubes.SuspendPostAll", _) => {
            Ok(ExitCode::SUCCESS)
        }
        _ => Ok(ExitCode::NOT_FOUND),
    }
}
