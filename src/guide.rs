//! The guide: from the first guest to a real Xen host, and how it works inside.
//!
//! - [Quick start](quick_start)
//! - [Writing an app](writing_an_app)
//! - [Coming from MirageOS](from_mirageos), and [a comparison](comparison) with other unikernels
//! - [Running on a Xen host, XCP-ng and Qubes](xen_host)
//! - [How a PVH guest boots](boot)
//! - [The path of a disk request](disk_request)
//! - [Testing on real Xen without Xen](testing)
//! - [The security model](security)
//! - [`cargo xen`](cargo_xen): what a project says of itself, and what works beside a running guest
//! - [Packages](packages) for Qubes OS, hosts with xl, and XCP-ng
//! - [The commands of `cargo xen`](commands)
//! - [HTTPS](https), and TLS for any application
//! - [Volumes on disks](volumes): what a storage domain keeps for guests
//! - [The gate](gate): a firewall and router for guests, and [its rules](gate_rules); [in Qubes OS](qubes)

/// A page of `docs/`. The pages link to each other by labels, which they define at their end as file names; the first
/// definition of a label counts, so here it is the module.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[doc = "[boot]: crate::guide::boot"]
        #[doc = "[cargo-xen]: crate::guide::cargo_xen"]
        #[doc = "[commands]: crate::guide::commands"]
        #[doc = "[comparison]: crate::guide::comparison"]
        #[doc = "[disk-request]: crate::guide::disk_request"]
        #[doc = "[from-mirageos]: crate::guide::from_mirageos"]
        #[doc = "[gate]: crate::guide::gate"]
        #[doc = "[gate-rules]: crate::guide::gate_rules"]
        #[doc = "[https]: crate::guide::https"]
        #[doc = "[packages]: crate::guide::packages"]
        #[doc = "[qubes]: crate::guide::qubes"]
        #[doc = "[quick-start]: crate::guide::quick_start"]
        #[doc = "[security-model]: crate::guide::security"]
        #[doc = "[testing]: crate::guide::testing"]
        #[doc = "[vault]: crate::guide::vault"]
        #[doc = "[volumes]: crate::guide::volumes"]
        #[doc = "[writing-an-app]: crate::guide::writing_an_app"]
        #[doc = "[xen-host]: crate::guide::xen_host"]
        #[doc = ""]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    };
}

page!(quick_start, "quick-start.md");
page!(writing_an_app, "writing-an-app.md");
page!(from_mirageos, "from-mirageos.md");
page!(comparison, "comparison.md");
page!(xen_host, "xen-host.md");
page!(boot, "boot.md");
page!(disk_request, "disk-request.md");
page!(testing, "testing.md");
page!(security, "security.md");
page!(cargo_xen, "cargo-xen.md");
page!(packages, "packages.md");
page!(commands, "commands.md");
page!(https, "https.md");
page!(gate, "gate.md");
page!(gate_rules, "gate-rules.md");
page!(vault, "vault.md");
page!(qubes, "qubes.md");
page!(volumes, "volumes.md");
