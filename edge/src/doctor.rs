//! `doctor` without a running process: what disk and kernel say, judged by the same checks.

use std::{fs, io, path::Path};

use cframe_pki::unix_now;
use cframe_protocol::problem::Code;

use crate::{
    instance::Paths,
    judge::own::{self, Clock, OwnFacts, Validity},
    local::AskError,
    problem::{Check, Problem, ProblemStatus, Report},
    snapshot, state, sys,
};

const TUN: &str = "/dev/net/tun";

/// `error`: why the process could not be asked.
pub fn offline_report(paths: &Paths, error: &AskError) -> Report {
    let checks = checks(paths, error);
    let now = unix_now();
    Report::new(&checks, |problem| ProblemStatus::new(problem, now))
}

fn checks(paths: &Paths, error: &AskError) -> Vec<Check> {
    // A user who may not use the socket may not read the key either: that is said once.
    if let AskError::NotAllowed(path) = error {
        return vec![not_allowed(&format!("this user may not use {}", path.display()))];
    }
    let identity = state::load(&paths.data);
    if let Err(error) = &identity
        && is_permission(error)
    {
        return vec![not_allowed(&plain(error))];
    }
    let validity = identity.map(|(_, identity, _)| Validity {
        not_before: identity.not_before,
        not_after: identity.not_after,
    });
    let mut checks = vec![tun_device(Path::new(TUN))];
    checks.extend(own::checks(&read(&paths.data, validity.map_err(|error| plain(&error)))));
    // What keeps it from running comes first: to start it again would not help.
    let startable = checks.iter().all(|check| check.result.is_ok());
    checks.push(process(error, startable));
    checks
}

fn not_allowed(text: &str) -> Check {
    let problem = Problem::new(Code::NotAllowed, "", text);
    Check::bad("permission", problem.fix("sudo cframe-edge doctor"))
}

fn is_permission(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    kinds.map(io::Error::kind).any(|kind| kind == io::ErrorKind::PermissionDenied)
}

/// An error with its causes, without the numbers of the system's errors.
fn plain(error: &anyhow::Error) -> String {
    let mut text = format!("{error:#}");
    while let Some(start) = text.find(" (os error ")
        && let Some(length) = text[start..].find(')')
    {
        text.replace_range(start..=start + length, "");
    }
    text
}

fn process(error: &AskError, startable: bool) -> Check {
    let text = format!("{error}; the other lines are what can be checked without it");
    let mut problem = Problem::new(Code::NotRunning, "", text);
    if startable {
        problem = problem.fix("systemctl start cframe-edge");
    }
    Check::bad("process", problem)
}

fn tun_device(path: &Path) -> Check {
    let what = "TUN";
    let (text, fix) = match fs::File::options().read(true).write(true).open(path) {
        Ok(_) => return Check::good(what, "the kernel has TUN devices"),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            (format!("{} may not be opened", path.display()), "sudo cframe-edge doctor")
        }
        Err(error) => {
            let text = format!("the kernel has no TUN devices: {}: {error}", path.display());
            (text, "modprobe tun")
        }
    };
    Check::bad(what, Problem::new(Code::NoTunDevice, "", text).fix(fix))
}

/// What the data directory and the kernel say.
fn read(data: &Path, certificate: Result<Validity, String>) -> OwnFacts {
    let synchronised = sys::clock_is_synchronised().ok();
    let clock = Clock { now: unix_now(), confirmed: None, controller: None, synchronised };
    let mut facts = OwnFacts { clock, ..OwnFacts::default() };
    facts.certificate = Some(certificate);
    match snapshot::load(&data.join(snapshot::FILE)) {
        Ok(snapshot) => facts.clock.confirmed = snapshot.map(|snapshot| snapshot.saved),
        Err(error) => facts.damaged = Some(format!("{:#}", anyhow::Error::new(error))),
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Instance;

    fn codes(report: &Report) -> Vec<&str> {
        report.problems.iter().map(|problem| problem.code.as_str()).collect()
    }

    #[test]
    fn without_a_process_files_are_judged_and_without_permission_only_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Instance::default().paths(Some(dir.path()));
        let stopped = AskError::NotRunning(paths.socket.clone());
        let found = offline_report(&paths, &stopped);
        let found = codes(&found);
        assert!(found.contains(&"not-running") && found.contains(&"certificate-invalid"));
        let forbidden = AskError::NotAllowed(paths.socket.clone());
        let found = offline_report(&paths, &forbidden);
        assert_eq!(codes(&found), ["not-allowed"]);
    }

    #[test]
    fn the_systems_error_numbers_are_left_out() {
        let missing = io::Error::from_raw_os_error(2);
        let error = anyhow::Error::new(missing).context("cannot read key.pem");
        assert_eq!(plain(&error), "cannot read key.pem: No such file or directory");
        assert!(!is_permission(&error));
        let denied = anyhow::Error::new(io::Error::from_raw_os_error(13)).context("x");
        assert!(is_permission(&denied));
    }

    #[test]
    fn a_missing_tun_device_is_named_with_its_fix() {
        let check = tun_device(Path::new("/dev/none/tun"));
        let problem = &check.result.unwrap_err()[0];
        assert_eq!(problem.code, Code::NoTunDevice);
        assert_eq!(problem.fix.as_deref(), Some("modprobe tun"));
    }
}
