//! Where packages come from: what this machine's apt is configured for.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::output;
use crate::setup::{apt_get, is_root};

/// What apt is asked to tell of each list of packages: place, suite, component, who is behind it and what it is.
const FORMAT: &str = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(LABEL)";
/// The archive's name of itself.
const ORIGIN: &str = "Debian";
/// Settings of apt that say how the archive is reached.
const REACHED_BY: [&str; 5] = [
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::ForceIPv",
];

/// The suite and the lines of a sources.list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) suite: String,
    pub(super) lines: Vec<String>,
}

/// The sources of Debian that apt has; those of `suite` in the same archive, if it is given.
pub(super) fn of_this_machine(suite: Option<&str>) -> Result<Sources> {
    let targets =
        || output(Command::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]));
    if let Some(sources) = sources(&targets()?, suite) {
        return Ok(sources);
    }
    // Who is behind a list is known once it was fetched.
    if is_root()? {
        crate::run::run(apt_get().arg("update"))?;
        if let Some(sources) = sources(&targets()?, suite) {
            return Ok(sources);
        }
    }
    bail!("apt knows no archive of Debian here; run `apt-get update` as root, or give --mirror and --suite")
}

/// An archive that was named.
pub(super) fn of_mirror(mirror: &str, suite: &str) -> Sources {
    Sources {
        suite: suite.to_owned(),
        lines: vec![format!("deb {mirror} {suite} main")],
    }
}

fn sources(targets: &str, suite: Option<&str>) -> Option<Sources> {
    let mut found = Vec::new();
    let mut first = None;
    for target in targets.lines() {
        let [uri, release, component, origin, label] = target.split('|').collect::<Vec<_>>()[..] else {
            continue;
        };
        if origin != ORIGIN || component != "main" {
            continue;
        }
        if label == ORIGIN && first.is_none() {
            first = Some((uri, release));
        }
        found.push(format!("deb {uri} {release} main"));
    }
    let (uri, release) = first?;
    Some(match suite {
        Some(suite) if suite != release => of_mirror(uri, suite),
        _ => Sources {
            suite: release.to_owned(),
            lines: found,
        },
    })
}

/// Options of apt that are needed to reach the archive from here: proxies and the like.
pub(super) fn apt_options() -> Result<Vec<String>> {
    let dump = output(Command::new("apt-config").arg("dump")).context("asking apt for its settings")?;
    Ok(reached_by(&dump))
}

fn reached_by(dump: &str) -> Vec<String> {
    dump.lines()
        .filter(|line| REACHED_BY.iter().any(|name| line.starts_with(name)) && !line.ends_with(" \"\";"))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "http://a.example/debian/|stable|main|Debian|Debian\n\
        http://a.example/debian/|stable|contrib|Debian|Debian\n\
        http://a.example/security/|stable-security|main|Debian|Debian-Security\n\
        http://b.example/tools|nodistro|main|. nodistro|. nodistro\n";

    #[test]
    fn the_archive_of_this_machine_is_taken_and_others_are_not() {
        let all = sources(TARGETS, None).unwrap();
        assert_eq!(all.suite, "stable");
        assert_eq!(
            all.lines,
            [
                "deb http://a.example/debian/ stable main",
                "deb http://a.example/security/ stable-security main"
            ]
        );
        assert_eq!(sources(TARGETS, Some("stable")).unwrap(), all);
        let other = sources(TARGETS, Some("testing")).unwrap();
        assert_eq!(other, of_mirror("http://a.example/debian/", "testing"));
        assert_eq!(sources("http://b.example/|x|main|B|B\n", None), None);
    }

    #[test]
    fn settings_that_reach_the_archive_are_taken_along() {
        let dump = "Acquire \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://p.example:1\";\n\
            Acquire::Check-Date \"false\";\nAPT::Architecture \"amd64\";\n";
        let options = [
            "Acquire::http::Proxy \"http://p.example:1\"",
            "Acquire::Check-Date \"false\"",
        ];
        assert_eq!(reached_by(dump), options);
    }
}
