//! The error that an application returns.

pub use anyhow::{Context, Error, anyhow as format_err, bail, ensure};

/// What an application's functions return that can fail, `main` too: any error becomes an [`Error`] by `?`.
///
/// An error's own text says what failed and where; [`context`](Context::context) puts before it what the application was
/// about. Where `main` returns one, the console shows all of it in a line, from the context to the cause.
///
/// [`bail!`], [`ensure!`] and [`format_err!`] make errors of a text. All of these are [`anyhow`]'s, without the standard
/// library: errors have to be `Send` and `Sync`, as those of Sarab are.
///
/// # Examples
///
/// ```
/// use sarab::block::BlockDevice;
/// use sarab::testing::{End, Guest, check};
/// use sarab::{App, Context, ensure};
///
/// async fn look(app: App) -> sarab::Result {
///     let sector: u64 = app.args().require("sector")?;
///     let disk = app.disk("xvda").await?;
///     let mut magic = [0; 512];
///     disk.read_bytes(sector, &mut magic).await.context("cannot look for the magic")?;
///     ensure!(magic.starts_with(b"SARAB"), "sector {sector} has no magic");
///     Ok(())
/// }
///
/// check("errors", 5, |xen| {
///     for (sector, line) in [
///         ("0", "sector 0 has no magic"),
///         ("x", "command line: `sector=x`: expected a number"),
///         ("9", "cannot look for the magic: 1 sectors at 9 reach past the device's end at 2"),
///     ] {
///         let guest = Guest::new(xen).command_line(&format!("sector={sector}")).disk("xvda", vec![0; 1024]);
///         let ended = guest.run(look);
///         assert_eq!((ended.how(), ended.console()), (End::Crash, &*format!("error: {line}\n")));
///     }
/// });
/// ```
pub type Result<T = (), E = Error> = core::result::Result<T, E>;
