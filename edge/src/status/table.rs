//! The status as text, for people and `awk`.

use std::fmt::Write as _;

use super::{Absence, LinkStatus, Status};

/// Lines of `name: value`, then the links as a table, then the drops and problems.
pub fn render(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut out, status);
    let _ = links(&mut out, &status.links);
    let _ = tail(&mut out, status);
    out
}

fn head(out: &mut String, status: &Status) -> std::fmt::Result {
    let Status { state, controller, certificate, device, routes, .. } = status;
    writeln!(out, "edge:         {}", status.id)?;
    writeln!(
        out,
        "instance:     {} (pid {}, up {})",
        status.instance,
        status.pid,
        duration(status.uptime_secs)
    )?;
    match (controller.connected, &controller.error) {
        (Some(address), _) => {
            writeln!(out, "controller:   {address} for {}", duration(controller.since_secs))?;
        }
        (None, error) => {
            let why = error.as_deref().unwrap_or("not connected yet");
            writeln!(out, "controller:   none for {}: {why}", duration(controller.since_secs))?;
        }
    }
    let version = state.version.as_deref().unwrap_or("none");
    match state.age_secs {
        Some(0) | None => writeln!(out, "state:        {version}")?,
        Some(age) => writeln!(out, "state:        {version}, confirmed {} ago", duration(age))?,
    }
    if let Some(reason) = &state.cut_off {
        let ago = status.clock.saturating_sub(state.cut_off_at.unwrap_or(status.clock));
        writeln!(out, "cut off:      {reason}, {} ago", duration(ago))?;
    }
    let own = if state.own.is_empty() { "none".to_owned() } else { state.own.join(" ") };
    writeln!(out, "own prefixes: {own}")?;
    writeln!(out, "certificate:  {} days left", certificate.days_left)?;
    let present = if device.present { "" } else { ", missing" };
    writeln!(out, "device:       {} mtu {}{present}", device.name, device.mtu)?;
    writeln!(out, "routes:       {} of {} installed", routes.installed, routes.intended)
}

fn links(out: &mut String, links: &[LinkStatus]) -> std::fmt::Result {
    let mut rows = vec![
        ["PEER", "STATE", "REMOTE", "RTT", "MTU", "LOSS", "SINCE", "SENT", "RECEIVED"]
            .map(str::to_owned),
    ];
    rows.extend(links.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    writeln!(out)?;
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn row(link: &LinkStatus) -> [String; 9] {
    let dash = || "-".to_owned();
    let if_up = |value: String| if link.up { value } else { dash() };
    [
        link.peer.clone(),
        state(link).to_owned(),
        link.remote.map_or_else(dash, |remote| remote.to_string()),
        if_up(format!("{}.{:03}ms", link.rtt_us / 1000, link.rtt_us % 1000)),
        if_up(link.path_mtu.to_string()),
        if_up(format!("{:.1}%", link.loss * 100.0)),
        duration(link.since_secs),
        bytes(link.traffic.sent_bytes),
        bytes(link.traffic.received_bytes),
    ]
}

fn state(link: &LinkStatus) -> &'static str {
    match link.absent {
        _ if link.up => "up",
        Some(Absence::Revoked) => "revoked",
        Some(Absence::NotJoined) => "not-joined",
        None => "down",
    }
}

fn tail(out: &mut String, status: &Status) -> std::fmt::Result {
    if !status.drops.is_empty() {
        let drops = status.drops.iter().map(|(reason, count)| format!("{reason} {count}"));
        writeln!(out, "\ndropped: {}", drops.collect::<Vec<_>>().join(", "))?;
    }
    for link in status.links.iter().filter(|link| !link.up) {
        if let Some(reason) = &link.reason {
            writeln!(out, "{}: {reason}", link.peer)?;
        }
    }
    for problem in &status.problems {
        out.push_str(&problem.render());
    }
    Ok(())
}

fn duration(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m{}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h{}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d{}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{count}B") } else { format!("{value:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            instance: "cframe0".to_owned(),
            id: "spiffe://m.example/ns/prod/edge/idc".to_owned(),
            links: vec![
                LinkStatus {
                    peer: "aws-hk".to_owned(),
                    up: true,
                    remote: Some("203.0.113.7:58423".parse().unwrap()),
                    rtt_us: 36_204,
                    path_mtu: 1452,
                    loss: 0.012,
                    since_secs: 3_725,
                    ..LinkStatus::default()
                },
                LinkStatus {
                    peer: "aliyun-sz".to_owned(),
                    reason: Some("timed out".to_owned()),
                    ..LinkStatus::default()
                },
            ],
            ..Status::default()
        }
    }

    #[test]
    fn columns_line_up_and_every_cell_has_something() {
        let text = render(&status());
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("PEER")).collect();
        assert_eq!(lines[1].split_whitespace().count(), 9);
        assert_eq!(lines[2].split_whitespace().count(), 9);
        assert_eq!(lines[0].find("STATE"), lines[1].find("up"));
        assert_eq!(lines[0].find("STATE"), lines[2].find("down"));
        assert!(
            lines[1].contains("36.204ms") && lines[1].contains("1.2%") && lines[1].contains("1h2m")
        );
    }

    #[test]
    fn a_peer_that_is_no_member_is_not_called_down() {
        let mut status = status();
        for (absence, word) in [(Absence::Revoked, "revoked"), (Absence::NotJoined, "not-joined")] {
            status.links[1].absent = Some(absence);
            let text = render(&status);
            let line = text.lines().find(|line| line.starts_with("aliyun-sz")).unwrap();
            assert_eq!(line.split_whitespace().nth(1), Some(word), "{line}");
        }
    }

    #[test]
    fn json_has_the_names_that_scripts_use() {
        let json = serde_json::to_value(status()).unwrap();
        for pointer in [
            "/id",
            "/instance",
            "/state/version",
            "/state/age_secs",
            "/controller/connected",
            "/certificate/days_left",
            "/links/0/peer",
            "/links/0/up",
            "/links/0/rtt_us",
            "/links/0/path_mtu",
            "/links/0/traffic/sent_bytes",
            "/routes/intended",
            "/routes/installed",
            "/drops",
            "/traffic/received_packets",
            "/problems",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
