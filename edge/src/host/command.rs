//! Names in commands that an operator pastes into a root shell. Pure.

/// The name, if no shell and no program reads more into it than a name. The kernel lets a device be named
/// `a;reboot`.
pub fn plain(name: &str) -> Option<&str> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "._@-".contains(char);
    let is_option = name.starts_with('-');
    (!name.is_empty() && !is_option && name.chars().all(is_plain)).then_some(name)
}

/// The command that gives a setting of the network stack this value: with slashes where a device's name has
/// a dot.
///
/// `key` is as in `/proc/sys/net`. `None` if the device's name cannot stand in a command.
pub fn sysctl(key: &str, value: u32) -> Option<String> {
    key.split('/')
        .all(|part| plain(part).is_some())
        .then(|| format!("sysctl -w {}={value}", setting(key)))
}

/// A setting as sysctl(8) takes it.
pub fn setting(key: &str) -> String {
    match key.contains('.') {
        true => format!("net/{key}"),
        false => format!("net.{}", key.replace('/', ".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_read_as_more_is_in_no_command() {
        for name in ["eth0", "br-lan", "eth0.100", "veth7@if2", "wg_home"] {
            assert_eq!(plain(name), Some(name));
        }
        for name in ["", "$(reboot)", "a;reboot", "a`b`", "-o", "a b", "a'b", "a\u{1b}[2J", "ä"] {
            assert_eq!(plain(name), None, "{name}");
            assert_eq!(sysctl(&format!("ipv4/conf/{name}/rp_filter"), 2), None);
        }
    }

    #[test]
    fn a_setting_of_a_vlan_is_written_with_slashes() {
        let set = |device: &str| sysctl(&format!("ipv4/conf/{device}/rp_filter"), 2).unwrap();
        assert_eq!(set("eth0"), "sysctl -w net.ipv4.conf.eth0.rp_filter=2");
        assert_eq!(set("eth0.100"), "sysctl -w net/ipv4/conf/eth0.100/rp_filter=2");
    }
}
