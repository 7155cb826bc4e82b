//! The edge itself: clock, certificate, membership, controllers, device and files.

use cframe_pki::renewal::{days_left, expires_soon};
use cframe_protocol::problem::Code;

use crate::{
    problem::{Check, Problem},
    status::ControllerStatus,
};

/// A clock that is this much behind a saved time is wrong: less can be the time that a file took to be
/// written on a busy host. In seconds.
const CLOCK_TOLERANCE: u64 = 60;
/// For how long an edge may be without a controller before that is a problem, in seconds.
const CONTROLLER_GRACE: u64 = 10;

#[derive(Clone, Debug, Default)]
pub struct OwnFacts {
    pub clock: Clock,
    /// The certificate's validity, or why there is none.
    pub certificate: Option<Result<Validity, String>>,
    /// Why the last renewal failed.
    pub renewal_error: Option<String>,
    /// Why a controller has cut this edge off.
    pub cut_off: Option<String>,
    /// Another process uses this edge's identity and has the session.
    pub in_use: bool,
    /// The session; `None` if the process does not run.
    pub controller: Option<ControllerStatus>,
    pub device: Option<DeviceFacts>,
    /// Why the state was not saved, while it is not.
    pub not_saved: Option<String>,
    /// Why the saved state cannot be used.
    pub damaged: Option<String>,
}

/// Times in Unix seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    pub now: u64,
    /// When the state on disk was confirmed by a controller.
    pub confirmed: Option<u64>,
    /// What controllers' certificates say of this clock.
    pub controller: Option<Skew>,
    /// Whether the kernel considers the clock synchronised; `None` if it cannot be read.
    pub synchronised: Option<bool>,
}

/// How this clock differs from a controller's, at least. In seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    Ahead(u64),
    Behind(u64),
    /// A controller finds this edge's certificate expired or not valid yet, and this clock does not.
    Unknown,
}

/// Validity of the certificate, in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: u64,
    pub not_after: u64,
}

#[derive(Clone, Debug, Default)]
pub struct DeviceFacts {
    pub name: String,
    pub present: bool,
    /// Why it cannot be made.
    pub error: Option<String>,
}

pub fn checks(facts: &OwnFacts) -> Vec<Check> {
    let clock = clock(facts);
    let right = clock.result.is_ok();
    let mut checks = vec![clock];
    checks.extend(membership(facts));
    // By a wrong clock certificates look expired, and no controller answers: the cause is said once.
    if right {
        checks.extend(certificate(facts));
        checks.extend(controller(facts));
    }
    checks.extend(facts.device.as_ref().map(device));
    checks.push(files(facts));
    checks
}

fn clock(facts: &OwnFacts) -> Check {
    let Clock { now, confirmed, controller, synchronised } = facts.clock;
    let not_before = match &facts.certificate {
        Some(Ok(validity)) => validity.not_before,
        Some(Err(_)) | None => 0,
    };
    let saved = confirmed.filter(|saved| now + CLOCK_TOLERANCE < *saved);
    let wrong = match controller {
        Some(Skew::Ahead(secs)) => Some(format!(
            "this host's clock is at least {} ahead, or the controllers' is behind: their certificates look expired",
            span(secs)
        )),
        Some(Skew::Behind(secs)) => Some(format!(
            "this host's clock is at least {} behind, or the controllers' is ahead: their certificates look not valid yet",
            span(secs)
        )),
        _ if now < not_before => Some(format!(
            "this host's clock is {} behind the start of this edge's certificate",
            span(not_before - now)
        )),
        Some(Skew::Unknown) => Some(
            "this host's clock and the controllers' differ: they find this edge's certificate expired, or not valid yet"
                .to_owned(),
        ),
        None => saved.map(|saved| {
            format!("this host's clock is {} behind the last word of a controller", span(saved - now))
        }),
    };
    if let Some(text) = wrong {
        return Check::bad("clock", Problem::new(Code::ClockWrong, "", text).fix(CLOCK_FIX));
    }
    let found = match synchronised {
        Some(true) => "synchronised",
        // In containers and some clouds the host's clock is synchronised from outside.
        Some(false) => "plausible; not synchronised according to the kernel",
        None => "plausible; the kernel's synchronisation state cannot be read here",
    };
    Check::good("clock", found)
}

const JOIN_FIX: &str =
    "on the operator's machine: cfctl token create; here: cframe-edge join TOKEN";
const REJOIN_FIX: &str =
    "on the operator's machine: cfctl token create --rejoin; here: cframe-edge join TOKEN";

const CLOCK_FIX: &str =
    "set the clock and keep it synchronised: systemctl enable --now systemd-timesyncd, or chrony";

fn certificate(facts: &OwnFacts) -> Option<Check> {
    let what = "certificate";
    let now = facts.clock.now;
    let Validity { not_before, not_after } = match facts.certificate.as_ref()? {
        Ok(validity) => *validity,
        Err(error) => {
            // Some errors say what to run.
            let (text, fix) = match error.split_once("; run: ") {
                Some((text, command)) => (text, command.to_owned()),
                None if error.contains("join first") => (error.as_str(), JOIN_FIX.to_owned()),
                None => (
                    error.as_str(),
                    format!("put back a copy of the file; without one, {REJOIN_FIX}"),
                ),
            };
            let problem = Problem::new(Code::CertificateInvalid, "", text).fix(fix);
            return Some(Check::bad(what, problem));
        }
    };
    let left = days_left(not_after, now);
    if now > not_after {
        let mut text = format!("the certificate expired {} ago", span(now - not_after));
        if facts.clock.synchronised != Some(true) {
            text.push_str(", by a clock that is not synchronised: check the date first");
        }
        let problem = Problem::new(Code::CertificateInvalid, "", text).fix(REJOIN_FIX);
        return Some(Check::bad(what, problem));
    }
    let late = expires_soon(not_before, not_after, now);
    if let Some(error) = &facts.renewal_error {
        let text = format!("the certificate was not renewed, {left} days are left: {error}");
        return Some(Check::bad(what, Problem::new(Code::CertificateNotRenewed, "", text)));
    }
    if late {
        let text = format!("the certificate expires in {left} days and was not renewed");
        let fix = "a controller must be reachable for the renewal";
        return Some(Check::bad(
            what,
            Problem::new(Code::CertificateNotRenewed, "", text).fix(fix),
        ));
    }
    Some(Check::good(what, format!("{left} days left")))
}

fn membership(facts: &OwnFacts) -> Option<Check> {
    let reason = facts.cut_off.as_deref()?;
    let text = format!("a controller has cut this edge off: {reason}");
    Some(Check::bad("membership", Problem::new(Code::CutOff, "", text).fix(REJOIN_FIX)))
}

fn controller(facts: &OwnFacts) -> Option<Check> {
    let what = "controller";
    if facts.in_use {
        let text = "another host uses this edge's identity, and the controller keeps the session of that one";
        let fix = "stop cframe-edge on one of the two hosts; for the other: cfctl token create --rejoin, and \
                   cframe-edge join TOKEN";
        return Some(Check::bad(what, Problem::new(Code::IdentityInUse, "", text).fix(fix)));
    }
    let ControllerStatus { connected, since_secs, error, addresses } = facts.controller.as_ref()?;
    if let Some(address) = connected {
        return Some(Check::good(what, format!("session with {address}")));
    }
    let error = error.as_deref().unwrap_or("not connected yet");
    // What ended the membership ended the session.
    if facts.cut_off.is_some() || *since_secs < CONTROLLER_GRACE {
        return Some(Check::good(what, format!("no session: {error}")));
    }
    let text = format!("no session with a controller: {error}");
    let addresses = addresses.join(" or ");
    let fix = format!("let UDP pass to {addresses}; traffic continues with the saved state");
    Some(Check::bad(what, Problem::new(Code::NoController, "", text).fix(fix)))
}

fn device(device: &DeviceFacts) -> Check {
    let DeviceFacts { name, present, error } = device;
    if *present {
        return Check::good("device", name.clone());
    }
    let error = error.as_deref().unwrap_or("it was removed");
    let text = format!("there is no device {name}: {error}");
    let problem = Problem::new(Code::DeviceMissing, name, text);
    Check::bad("device", problem)
}

fn files(facts: &OwnFacts) -> Check {
    let mut problems = Vec::new();
    if let Some(error) = &facts.not_saved {
        let text = format!("the state was not saved, a restart would use an older one: {error}");
        let fix = "make room, or make the data directory writable; it is tried again every 4 s";
        problems.push(Problem::new(Code::StateNotSaved, "", text).fix(fix));
    }
    if let Some(error) = &facts.damaged {
        problems.push(Problem::new(Code::SavedStateDamaged, "", error));
    }
    Check::of("saved state", problems, "up to date")
}

/// A length of time, in the largest unit that has two of it.
pub(super) fn span(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs} s"),
        120..7_200 => format!("{} minutes", secs / 60),
        7_200..172_800 => format!("{} hours", secs / 3_600),
        _ => format!("{} days", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;
    const NOW: u64 = 1_763_000_000;

    fn healthy() -> OwnFacts {
        OwnFacts {
            clock: Clock {
                now: NOW,
                confirmed: Some(NOW),
                controller: None,
                synchronised: Some(true),
            },
            certificate: Some(Ok(Validity { not_before: NOW - DAY, not_after: NOW + 29 * DAY })),
            controller: Some(ControllerStatus {
                connected: Some("203.0.113.1:58422".parse().unwrap()),
                ..ControllerStatus::default()
            }),
            device: Some(DeviceFacts { name: "cframe0".to_owned(), present: true, error: None }),
            ..OwnFacts::default()
        }
    }

    /// The problems after one change of a healthy edge.
    fn found(change: impl FnOnce(&mut OwnFacts)) -> Vec<Problem> {
        let mut facts = healthy();
        change(&mut facts);
        Check::problems(&checks(&facts))
    }

    fn codes(change: impl FnOnce(&mut OwnFacts)) -> Vec<Code> {
        found(change).iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn nothing_is_wrong_with_a_healthy_edge() {
        assert_eq!(found(|_| {}), []);
    }

    #[test]
    fn a_clock_before_the_certificate_or_the_last_confirmation_is_wrong() {
        assert_eq!(codes(|facts| facts.clock.now = NOW - 2 * DAY), [Code::ClockWrong]);
        assert_eq!(codes(|facts| facts.clock.confirmed = Some(NOW + DAY)), [Code::ClockWrong]);
        assert_eq!(codes(|facts| facts.clock.confirmed = Some(NOW + 30)), []);
        for skew in [Skew::Ahead(60 * DAY), Skew::Behind(DAY), Skew::Unknown] {
            let wrong = codes(|facts| facts.clock.controller = Some(skew));
            assert_eq!(wrong, [Code::ClockWrong]);
        }
    }

    #[test]
    fn a_certificate_is_reported_before_its_end_and_after_it() {
        let soon = codes(|facts| facts.clock.now = NOW + 16 * DAY);
        assert_eq!(soon, [Code::CertificateNotRenewed]);
        let expired = found(|facts| {
            facts.clock.now = NOW + 89 * DAY;
            facts.clock.synchronised = Some(false);
        });
        assert_eq!(expired[0].code, Code::CertificateInvalid);
        assert!(expired[0].text.contains("60 days ago") && expired[0].text.contains("the date"));
    }

    #[test]
    fn a_missing_controller_is_reported_after_a_moment_and_once_with_its_cause() {
        let lost = |since_secs, facts: &mut OwnFacts| {
            facts.controller = Some(ControllerStatus { since_secs, ..ControllerStatus::default() });
        };
        assert_eq!(codes(|facts| lost(3, facts)), []);
        assert_eq!(codes(|facts| lost(30, facts)), [Code::NoController]);
        let cut_off = codes(|facts| {
            lost(30, facts);
            facts.cut_off = Some("its certificate was revoked".to_owned());
        });
        assert_eq!(cut_off, [Code::CutOff]);
    }

    #[test]
    fn a_second_host_with_the_same_identity_is_told() {
        assert_eq!(codes(|facts| facts.in_use = true), [Code::IdentityInUse]);
    }

    #[test]
    fn a_missing_device_and_a_full_disk_are_reported() {
        let device = codes(|facts| facts.device.as_mut().unwrap().present = false);
        assert_eq!(device, [Code::DeviceMissing]);
        let full = found(|facts| facts.not_saved = Some("No space left on device".to_owned()));
        assert!(full[0].code == Code::StateNotSaved && full[0].text.contains("No space left"));
    }
}
