//! Rows of lists, and the status.

use super::*;

pub(super) fn audit_row() -> AuditRow {
    AuditRow {
        id: "1763000000000-c1-0000000007".into(),
        record: r#"{"schema":1,"who":"admin/alice"}"#.into(),
    }
}

pub(super) fn registration_rows() -> Vec<RegistrationRow> {
    let row = RegistrationRow {
        name: "c1".parse().unwrap(),
        addresses: vec!["203.0.113.7:58422".parse().unwrap()],
        added: 1_763_000_000,
        issuer: Fingerprint::from_bytes([0xab; 32]),
        issuer_expires: 1_857_600_000,
        running: Some(Running { software: "0.1.0".into(), since: 1_763_000_100 }),
    };
    vec![row.clone(), RegistrationRow { name: "c2".parse().unwrap(), running: None, ..row }]
}

pub(crate) fn session_rows() -> Vec<SessionRow> {
    let row = SessionRow {
        namespace: "prod".parse().unwrap(),
        edge: "aws-hk".parse().unwrap(),
        online: true,
        since: 1_763_000_000,
        software: "0.1.0".into(),
        address: "203.0.113.9:4500".parse().unwrap(),
        applied: Some(version()),
        links: vec![link("idc")],
        problems: problems(),
        detail: SessionDetail {
            boot: [7; 16],
            applied_since: 1_763_000_001,
            unacked_since: Some(1_763_000_002),
            rival: Some(Rival { address: "203.0.113.10:4500".parse().unwrap(), at: 1_763_000_003 }),
        },
    };
    let gone =
        SessionRow { edge: "idc".parse().unwrap(), online: false, applied: None, ..row.clone() };
    vec![row, gone]
}

pub(crate) fn ca_status() -> CaStatus {
    let certs = CertCounts { edges: 2, controllers: 1, admins: 1, valid: 7 };
    CaStatus {
        roots: vec![RootRow {
            fingerprint: Fingerprint::from_bytes([0xab; 32]),
            subject: "cframe root CA abababababababab".into(),
            not_after: 2_078_360_000,
            certificate: vec![0x30, 0xff, 0],
            signs: true,
            revision: 5,
            have: 2,
            edges: 3,
            lacking: vec![Lacking {
                namespace: "prod".parse().unwrap(),
                edge: "idc".parse().unwrap(),
                online: true,
            }],
            certs,
        }],
        issuers: vec![IssuerRow {
            fingerprint: Fingerprint::from_bytes([0xac; 32]),
            controller: "c1".parse().unwrap(),
            root: Fingerprint::from_bytes([0xab; 32]),
            not_after: 1_857_608_000,
            signs: true,
            revoked: true,
            certs,
        }],
        next: "nothing to do".into(),
    }
}

pub(crate) fn holder() -> HolderRow {
    HolderRow {
        id: "spiffe://corp/ns/prod/edge/aws-hk".parse().unwrap(),
        serial: Serial::from_bytes([9; 16]),
        not_after: 1_765_592_000,
        online: true,
    }
}

pub(super) fn namespace_row() -> NamespaceRow {
    NamespaceRow {
        name: "prod".parse().unwrap(),
        description: "production".into(),
        settings: Settings::default(),
        edges: 3,
        routes: 1,
        revision: 17,
    }
}

pub(crate) fn edge_rows() -> Vec<EdgeRow> {
    let states = [
        EdgeLiveness::NeverSeen,
        EdgeLiveness::Offline { since: 1_763_000_000 },
        EdgeLiveness::Online { since: 1_763_000_000 },
        EdgeLiveness::Revoked { since: 1_763_000_000 },
    ];
    let addresses = [None, Some("203.0.113.9:4500"), Some("[2001:db8::9]:4500"), None];
    let rows = states.into_iter().zip(addresses).map(|(state, address)| EdgeRow {
        namespace: "prod".parse().unwrap(),
        name: "aws-hk".parse().unwrap(),
        cidrs: vec!["172.30.0.0/16".parse().unwrap()],
        endpoints: vec!["203.0.113.9:58423".parse().unwrap()],
        description: "Hong Kong".into(),
        state,
        software: "0.1.0".into(),
        address: address.map(|a| a.parse().unwrap()),
        applied: address.map(|_| version()),
        cert_expires: address.map(|_| 1_765_000_000),
        links: vec![link("idc")],
        no_link_to: vec![label("idc")],
        problems: problems(),
    });
    rows.collect()
}

pub(super) fn route_row() -> RouteRow {
    RouteRow {
        namespace: "prod".parse().unwrap(),
        name: "pods".parse().unwrap(),
        prefix: "10.244.0.0/16".parse().unwrap(),
        edge: "aws-hk".parse().unwrap(),
    }
}

pub(super) fn token_row() -> TokenRow {
    TokenRow {
        namespace: "prod".parse().unwrap(),
        edge: "aws-hk".parse().unwrap(),
        id: "01".repeat(16),
        created: 1_763_000_000,
        expires: 1_763_003_600,
        rejoin: true,
        created_by: "alice".into(),
    }
}

pub(super) fn cert_rows() -> Vec<CertRow> {
    let revoked = CertState::Revoked { at: 1_763_500_000, reason: "stolen".into() };
    let rows = [CertState::Valid, CertState::Expired, revoked].into_iter().map(|state| CertRow {
        serial: Serial::from_bytes([9; 16]),
        id: "spiffe://corp/ns/prod/edge/aws-hk".parse().unwrap(),
        spki: Fingerprint::from_bytes([0xcd; 32]),
        not_before: 1_763_000_000,
        not_after: 1_765_592_000,
        state,
    });
    rows.collect()
}

pub(crate) fn status() -> MeshStatus {
    MeshStatus {
        mesh: "corp".parse().unwrap(),
        controllers: vec![ControllerRow {
            name: "c1".parse().unwrap(),
            address: "203.0.113.7:58422".parse().unwrap(),
            software: "0.1.0".into(),
            uptime_secs: 86_400,
            store: "embedded".into(),
        }],
        epoch: 1_763_000_000_000,
        mesh_revision: 4,
        namespaces: vec![NamespaceStatus {
            name: "prod".parse().unwrap(),
            edges: 3,
            online: 2,
            in_sync: 2,
            links_up: 1,
            links_expected: 3,
            revision: 17,
        }],
        problems: vec![ProblemGroup {
            code: Code::EdgeOffline.into(),
            severity: Severity::Error,
            title: Code::EdgeOffline.heading(1),
            count: 1,
            examples: vec![ProblemExample {
                subject: "prod/idc".into(),
                about: String::new(),
                text: "is offline".into(),
                fix: Some("look".into()),
                since_unix: Some(1_763_000_000),
            }],
        }],
    }
}
