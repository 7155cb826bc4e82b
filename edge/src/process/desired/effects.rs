//! What changes of the desired state mean for the parts of the process. Pure.

use std::net::SocketAddr;

use cframe_mesh::Congestion;
use cframe_pki::identity::Label;
use cframe_protocol::v1::{self, Change, Endpoint};

use crate::host::{driver::MeshChange, routes::Edit};

/// In the order in which they must be carried out: see
/// [`EdgeProcess::apply_state`](crate::process::EdgeProcess::apply_state).
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::process) struct Effects {
    /// The trust bundle is another.
    pub(in crate::process) bundle: bool,
    /// Denials were added or removed.
    pub(in crate::process) denials: bool,
    pub(in crate::process) controllers: bool,
    pub(in crate::process) mesh: Vec<MeshChange>,
    /// MTU of the TUN device in bytes.
    pub(in crate::process) mtu: Option<u16>,
    pub(in crate::process) routes: Vec<Edit>,
}

impl Effects {
    /// `own` is this edge, which is no peer of itself. `addresses` says where a peer is dialled.
    pub(in crate::process) fn of(
        changes: Vec<Change>,
        own: &Label,
        addresses: impl Fn(&Label, &[Endpoint]) -> Vec<SocketAddr>,
    ) -> Self {
        let mut effects = Self::default();
        for change in changes {
            match change {
                Change::Settings(settings) => {
                    effects.mesh.push(MeshChange::TunMtu(settings.tun_mtu));
                    effects.mesh.push(MeshChange::Congestion(congestion(settings.congestion)));
                    effects.mtu = Some(settings.tun_mtu);
                }
                Change::Trust(_) => effects.bundle = true,
                Change::Denied(_) | Change::NotDenied(_) => effects.denials = true,
                Change::Controllers(_) => effects.controllers = true,
                Change::Edge { name, .. } | Change::EdgeGone { name } if name == *own => {}
                Change::Edge { name, state } => {
                    let addresses = addresses(&name, &state.endpoints);
                    effects.mesh.push(MeshChange::Peer { name, addresses });
                }
                Change::EdgeGone { name } => effects.mesh.push(MeshChange::PeerGone(name)),
                Change::Prefix { net, owner } => {
                    let own = owner == *own;
                    effects.routes.push(if own { Edit::Own(net) } else { Edit::Foreign(net) });
                    effects.mesh.push(MeshChange::Prefix { net, owner });
                }
                Change::PrefixGone { net } => {
                    effects.routes.push(Edit::Gone(net));
                    effects.mesh.push(MeshChange::PrefixGone(net));
                }
            }
        }
        effects
    }
}

pub(in crate::process) fn congestion(wanted: v1::Congestion) -> Congestion {
    match wanted {
        v1::Congestion::Transparent => Congestion::Transparent,
        v1::Congestion::Bbr => Congestion::Bbr,
    }
}

#[cfg(test)]
mod tests {
    use cframe_protocol::v1::EdgeState;

    use super::*;

    #[test]
    fn the_edge_itself_is_no_peer_and_its_prefixes_are_its_own() {
        let label = |text: &str| text.parse::<Label>().unwrap();
        let net = |text: &str| text.parse::<ipnet::IpNet>().unwrap();
        let edge = |name| Change::Edge { name: label(name), state: EdgeState::default() };
        let prefix = |text, owner| Change::Prefix { net: net(text), owner: label(owner) };
        let changes = vec![
            edge("idc"),
            edge("aws-hk"),
            prefix("10.1.0.0/16", "idc"),
            prefix("10.2.0.0/16", "aws-hk"),
            Change::EdgeGone { name: label("idc") },
        ];
        let at: SocketAddr = "203.0.113.7:58423".parse().unwrap();
        let effects = Effects::of(changes, &label("idc"), |_, _| vec![at]);
        let owned = |text, owner| MeshChange::Prefix { net: net(text), owner: label(owner) };
        assert_eq!(
            effects.mesh,
            [
                MeshChange::Peer { name: label("aws-hk"), addresses: vec![at] },
                owned("10.1.0.0/16", "idc"),
                owned("10.2.0.0/16", "aws-hk"),
            ]
        );
        let edits = [Edit::Own(net("10.1.0.0/16")), Edit::Foreign(net("10.2.0.0/16"))];
        assert_eq!(effects.routes, edits);
    }
}
