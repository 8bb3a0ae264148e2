//! `cargo xen`.
mod dom0;
mod lab;
mod paths;
use dom0::Dom0;
fn main() -> anyhow::Result<()> {
    let suite = lab::Suite::named(&std::env::args().nth(1).unwrap())?;
    let lab = lab::Lab::boot(suite, &Default::default())?;
    println!("{}", lab.run("xl info; xl list; ls /dev/xen; dmesg | tail -5; ifconfig")?);
    println!("{}", std::fs::read_to_string(&lab.serial)?);
    Ok(())
}
