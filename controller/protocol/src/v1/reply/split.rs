//! Long answers in several frames, and back.

use crate::{
    frame::{BUDGET, seq_cost},
    v1::{
        AdminRow, AuditRow, CaStatus, CertRow, CertState, EdgeRow, HolderRow, IssuerRow, Lacking,
        LinkReport, MeshStatus, NamespaceRow, NamespaceStatus, RegistrationRow, Reply, RootRow,
        RouteRow, SessionRow, TokenRow,
    },
};

/// Rows in one frame.
const MAX_ROWS: usize = 64;
/// Links in one row of an edge.
const MAX_LINKS: usize = 150;
/// Bytes of a backup in one frame.
const MAX_CHUNK: usize = 32 * 1024;
/// A text's allocation and the places that point to it, with room to spare.
const TEXT: usize = 48;

impl Reply {
    /// The reply in pieces of which each fits a frame and the budget of its reader. At least one.
    ///
    /// Lists, the namespaces and problems of a status, the links of an edge and backups are cut;
    /// anything else is one piece.
    pub fn split(self) -> Vec<Self> {
        match self {
            Self::Namespaces(rows) => pieces(rows, Self::Namespaces),
            Self::Edges(rows) => {
                pieces(rows.into_iter().flat_map(short_rows).collect(), Self::Edges)
            }
            Self::Routes(rows) => pieces(rows, Self::Routes),
            Self::Tokens(rows) => pieces(rows, Self::Tokens),
            Self::Certs(rows) => pieces(rows, Self::Certs),
            Self::Admins(rows) => pieces(rows, Self::Admins),
            Self::Audit(rows) => pieces(rows, Self::Audit),
            Self::Controllers(rows) => pieces(rows, Self::Controllers),
            Self::Sessions(rows) => {
                pieces(rows.into_iter().flat_map(short_sessions).collect(), Self::Sessions)
            }
            Self::Holders(rows) => pieces(rows, Self::Holders),
            Self::Ca(status) => short_authorities(status),
            Self::Status(status) => short_statuses(status),
            Self::Chunk(bytes) if bytes.len() > MAX_CHUNK => {
                bytes.chunks(MAX_CHUNK).map(|chunk| Self::Chunk(chunk.to_vec())).collect()
            }
            whole @ (Self::Changed(_)
            | Self::TokenMade(_)
            | Self::Enrolled(_)
            | Self::AdminEnrolled(_)
            | Self::Trust(_)
            | Self::Progress(_)
            | Self::Chunk(_)
            | Self::Behind(_)
            | Self::Unheard(_)
            | Self::Version { .. }) => vec![whole],
        }
    }

    /// Adds a piece to an answer that is read piece by piece: rows to the list that they belong to,
    /// anything else at the end.
    pub fn add_piece(answer: &mut Vec<Self>, piece: Self) {
        let rest = match answer.last_mut() {
            Some(last) => last.merge(piece),
            None => Some(piece),
        };
        answer.extend(rest);
    }

    /// Adds the next piece of an answer to this one, and gives it back if it isn't a piece of the
    /// same list. Chunks and progress stay apart.
    pub fn merge(&mut self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Namespaces(rows), Self::Namespaces(more)) => rows.extend(more),
            (Self::Edges(rows), Self::Edges(more)) => merge_edges(rows, more),
            (Self::Routes(rows), Self::Routes(more)) => rows.extend(more),
            (Self::Tokens(rows), Self::Tokens(more)) => rows.extend(more),
            (Self::Certs(rows), Self::Certs(more)) => rows.extend(more),
            (Self::Admins(rows), Self::Admins(more)) => rows.extend(more),
            (Self::Audit(rows), Self::Audit(more)) => rows.extend(more),
            (Self::Controllers(rows), Self::Controllers(more)) => rows.extend(more),
            (Self::Sessions(rows), Self::Sessions(more)) => merge_sessions(rows, more),
            (Self::Status(status), Self::Status(more)) if status.mesh == more.mesh => {
                status.controllers.extend(more.controllers);
                status.namespaces.extend(more.namespaces);
                status.problems.extend(more.problems);
            }
            (Self::Holders(rows), Self::Holders(more)) => rows.extend(more),
            (Self::Ca(status), Self::Ca(more)) => {
                status.roots.extend(more.roots);
                status.issuers.extend(more.issuers);
                status.next.push_str(&more.next);
            }
            (_, next) => return Some(next),
        }
        None
    }
}

fn pieces<T: Weigh>(rows: Vec<T>, wrap: fn(Vec<T>) -> Reply) -> Vec<Reply> {
    let lists = cut(rows);
    if lists.is_empty() {
        return vec![wrap(Vec::new())];
    }
    lists.into_iter().map(wrap).collect()
}

/// Cuts a list where it gets too long or too heavy.
fn cut<T: Weigh>(rows: Vec<T>) -> Vec<Vec<T>> {
    let room = BUDGET - seq_cost(MAX_ROWS, size_of::<T>());
    let mut lists: Vec<Vec<T>> = Vec::new();
    let mut weight = 0;
    for row in rows {
        weight += row.weigh();
        match lists.last_mut() {
            Some(list) if list.len() < MAX_ROWS && weight <= room => list.push(row),
            _ => {
                weight = row.weigh();
                lists.push(vec![row]);
            }
        }
    }
    lists
}

fn merge_edges(rows: &mut Vec<EdgeRow>, more: Vec<EdgeRow>) {
    for row in more {
        match rows.last_mut() {
            Some(last) if (&last.namespace, &last.name) == (&row.namespace, &row.name) => {
                last.links.extend(row.links);
            }
            _ => rows.push(row),
        }
    }
}

fn merge_sessions(rows: &mut Vec<SessionRow>, more: Vec<SessionRow>) {
    for row in more {
        match rows.last_mut() {
            Some(last) if (&last.namespace, &last.edge) == (&row.namespace, &row.edge) => {
                last.links.extend(row.links);
            }
            _ => rows.push(row),
        }
    }
}

/// A session with many links as several rows of the same edge.
fn short_sessions(mut row: SessionRow) -> Vec<SessionRow> {
    let links = std::mem::take(&mut row.links);
    let mut lists = links.chunks(MAX_LINKS).map(<[LinkReport]>::to_vec);
    let first = SessionRow { links: lists.next().unwrap_or_default(), ..row };
    let more = |links| SessionRow { software: String::new(), links, ..first.clone() };
    let rest: Vec<SessionRow> = lists.map(more).collect();
    std::iter::once(first).chain(rest).collect()
}

/// An edge with many links as several rows of the same edge.
fn short_rows(mut row: EdgeRow) -> Vec<EdgeRow> {
    let links = std::mem::take(&mut row.links);
    let mut lists = links.chunks(MAX_LINKS).map(<[LinkReport]>::to_vec);
    let first = EdgeRow { links: lists.next().unwrap_or_default(), ..row };
    let rest: Vec<EdgeRow> = lists.map(|links| continuation(&first, links)).collect();
    std::iter::once(first).chain(rest).collect()
}

/// Only what tells whose links they are.
fn continuation(row: &EdgeRow, links: Vec<LinkReport>) -> EdgeRow {
    EdgeRow {
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        cidrs: Vec::new(),
        endpoints: Vec::new(),
        description: String::new(),
        state: row.state,
        software: String::new(),
        address: None,
        applied: None,
        cert_expires: None,
        links,
    }
}

/// A status that is cut: namespaces, then problems, each piece with the mesh's own data.
fn short_statuses(mut status: MeshStatus) -> Vec<Reply> {
    let namespaces = cut(std::mem::take(&mut status.namespaces));
    let problems = cut(std::mem::take(&mut status.problems));
    let empty = MeshStatus { controllers: Vec::new(), ..status.clone() };
    let namespaces =
        namespaces.into_iter().map(|namespaces| MeshStatus { namespaces, ..empty.clone() });
    let problems = problems.into_iter().map(|problems| MeshStatus { problems, ..empty.clone() });
    let first = std::iter::once(status);
    first.chain(namespaces).chain(problems).map(Reply::Status).collect()
}

/// The CAs in pieces: each root, whose certificate and edges weigh, then the issuing CAs, and the first
/// piece has the sentence.
fn short_authorities(status: CaStatus) -> Vec<Reply> {
    let CaStatus { roots, issuers, next } = status;
    let piece = |roots, issuers| CaStatus { roots, issuers, next: String::new() };
    let mut pieces = vec![CaStatus { next, ..piece(Vec::new(), Vec::new()) }];
    pieces.extend(cut(roots).into_iter().map(|roots| piece(roots, Vec::new())));
    pieces.extend(cut(issuers).into_iter().map(|issuers| piece(Vec::new(), issuers)));
    pieces.into_iter().map(Reply::Ca).collect()
}

/// What a row takes besides its place in the list, at least as much as its reader's budget counts.
trait Weigh {
    fn weigh(&self) -> usize;
}

impl Weigh for NamespaceRow {
    fn weigh(&self) -> usize {
        2 * TEXT + self.name.as_str().len() + self.description.len()
    }
}

impl Weigh for EdgeRow {
    fn weigh(&self) -> usize {
        let names = self.namespace.as_str().len() + self.name.as_str().len();
        let endpoints: usize = self.endpoints.iter().map(|e| TEXT + e.as_str().len()).sum();
        let links: usize = self.links.iter().map(|link| TEXT + link.peer.as_str().len()).sum();
        let lists = seq_cost(self.cidrs.len(), 18)
            + seq_cost(self.endpoints.len(), 24)
            + seq_cost(self.links.len(), size_of::<LinkReport>());
        4 * TEXT + names + self.description.len() + self.software.len() + endpoints + links + lists
    }
}

impl Weigh for RouteRow {
    fn weigh(&self) -> usize {
        [&self.namespace, &self.name, &self.edge].iter().map(|l| TEXT + l.as_str().len()).sum()
    }
}

impl Weigh for TokenRow {
    fn weigh(&self) -> usize {
        let names = self.namespace.as_str().len() + self.edge.as_str().len();
        4 * TEXT + names + self.id.len() + self.created_by.len()
    }
}

impl Weigh for CertRow {
    fn weigh(&self) -> usize {
        let reason = match &self.state {
            CertState::Valid | CertState::Expired => 0,
            CertState::Revoked { reason, .. } => reason.len(),
        };
        5 * TEXT + 2 * self.id.to_string().len() + reason
    }
}

impl Weigh for RootRow {
    fn weigh(&self) -> usize {
        let names = |row: &Lacking| row.namespace.as_str().len() + row.edge.as_str().len();
        let lacking: usize = self.lacking.iter().map(|row| 2 * TEXT + names(row)).sum();
        let list = seq_cost(self.lacking.len(), size_of::<Lacking>());
        4 * TEXT + self.subject.len() + self.certificate.len() + lacking + list
    }
}

impl Weigh for IssuerRow {
    fn weigh(&self) -> usize {
        4 * TEXT + self.controller.as_str().len()
    }
}

impl Weigh for HolderRow {
    fn weigh(&self) -> usize {
        4 * TEXT + 2 * self.id.to_string().len()
    }
}

impl Weigh for AdminRow {
    fn weigh(&self) -> usize {
        TEXT + self.name.as_str().len()
    }
}

impl Weigh for AuditRow {
    fn weigh(&self) -> usize {
        2 * TEXT + self.id.len() + self.record.len()
    }
}

impl Weigh for RegistrationRow {
    fn weigh(&self) -> usize {
        let addresses: usize = self.addresses.iter().map(|e| TEXT + e.as_str().len()).sum();
        let software = self.running.as_ref().map_or(0, |running| running.software.len());
        3 * TEXT
            + self.name.as_str().len()
            + software
            + addresses
            + seq_cost(self.addresses.len(), 24)
    }
}

impl Weigh for SessionRow {
    fn weigh(&self) -> usize {
        let names = self.namespace.as_str().len() + self.edge.as_str().len();
        let links: usize = self.links.iter().map(|link| TEXT + link.peer.as_str().len()).sum();
        4 * TEXT
            + names
            + self.software.len()
            + links
            + seq_cost(self.links.len(), size_of::<LinkReport>())
    }
}

impl Weigh for NamespaceStatus {
    fn weigh(&self) -> usize {
        TEXT + self.name.as_str().len()
    }
}

impl Weigh for String {
    fn weigh(&self) -> usize {
        TEXT + self.len()
    }
}
