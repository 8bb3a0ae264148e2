//! The Debian releases that the lab can boot: which Xen, which packages.

use std::fmt;

use anyhow::{Result, bail};

/// One release: its code name and the Xen that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Debian's code name, also the name in package sources.
    pub codename: &'static str,
    /// The Xen version as it stands in package names.
    pub xen: &'static str,
}

/// Every suite that the lab knows, the default last.
pub const SUITES: [Suite; 2] = [Suite { codename: "bookworm", xen: "4.17" }, Suite { codename: "trixie", xen: "4.20" }];

/// The suite taken where none is named.
pub const DEFAULT: Suite = SUITES[1];

impl Suite {
    /// Finds a suite by its code name.
    pub fn named(name: &str) -> Result<Suite> {
        match SUITES.iter().find(|suite| suite.codename == name) {
            Some(suite) => Ok(*suite),
            None => {
                let known: Vec<_> = SUITES.iter().map(|suite| suite.codename).collect();
                bail!("unknown suite `{name}`: expected {}", known.join(" or "))
            }
        }
    }

    /// Whether the lab has Xen's QEMU with this suite, whose network backend offers least.
    pub fn has_device_model(&self) -> bool {
        *self == DEFAULT
    }

    /// What dom0 and the Linux guest are made of: hypervisor, toolstack, kernel, userland.
    pub fn packages(&self) -> Vec<String> {
        let mut packages = vec![
            format!("xen-hypervisor-{}-amd64", self.xen),
            format!("xen-utils-{}", self.xen),
            "xenstore-utils".into(),
            "linux-image-amd64".into(),
            "busybox-static".into(),
            "dropbear-bin".into(),
            "iperf3".into(),
            "iproute2".into(),
            "e2fsprogs".into(),
            "nginx".into(),
            "openssl".into(),
        ];
        if self.has_device_model() {
            packages.extend(["qemu-system-xen", "seabios"].map(str::to_owned));
        }
        packages
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Xen {} (Debian {})", self.xen, self.codename)
    }
}
