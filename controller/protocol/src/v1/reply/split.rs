//! Splitting long answers into frames, and merging them.

use cframe_pki::identity::Label;

use crate::{
    frame::{BUDGET, seq_cost},
    v1::{
        AdminRow, AuditRow, CaStatus, CertRow, CertState, EdgeRow, HolderRow, IssuerRow, Lacking,
        LinkReport, MeshStatus, NamespaceRow, NamespaceStatus, Problem, ProblemExample,
        ProblemGroup, Problems, RegistrationRow, Reply, RootRow, RouteRow, SessionDetail,
        SessionRow, TokenRow,
    },
};

/// Per frame.
const MAX_ROWS: usize = 64;
/// Per row of an edge.
const MAX_LINKS: usize = 150;
/// Bytes of a backup per frame.
const MAX_CHUNK: usize = 32 * 1024;
/// Bytes that a string takes in memory besides its content, rounded up.
const TEXT: usize = 48;

impl Reply {
    /// Splits the reply into one or more pieces that each fit a frame and its reader's budget.
    ///
    /// Lists, the namespaces and problems of a status, the links of an edge and backups are split;
    /// anything else is one piece.
    pub fn split(self) -> Vec<Self> {
        match self {
            Self::Namespaces(rows) => pieces(rows, Self::Namespaces),
            Self::Edges(rows) => {
                pieces(rows.into_iter().flat_map(split_links).collect(), Self::Edges)
            }
            Self::Routes(rows) => pieces(rows, Self::Routes),
            Self::Tokens(rows) => pieces(rows, Self::Tokens),
            Self::Certs(rows) => pieces(rows, Self::Certs),
            Self::Admins(rows) => pieces(rows, Self::Admins),
            Self::Audit(rows) => pieces(rows, Self::Audit),
            Self::Controllers(rows) => pieces(rows, Self::Controllers),
            Self::Sessions(rows) => {
                pieces(rows.into_iter().flat_map(split_links).collect(), Self::Sessions)
            }
            Self::Holders(rows) => pieces(rows, Self::Holders),
            Self::Ca(status) => split_ca(status),
            Self::Status(status) => split_status(status),
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
            // A piece may have several rows of one edge.
            None => Some(piece.merged()),
        };
        answer.extend(rest);
    }

    /// Rows of one edge as one row.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only rows of edges come in pieces")]
    fn merged(self) -> Self {
        match self {
            Self::Edges(rows) => Self::Edges(merged(rows)),
            Self::Sessions(rows) => Self::Sessions(merged(rows)),
            other => other,
        }
    }

    /// Appends the next piece of an answer to this one, or returns it if it isn't a piece of the same
    /// list. Chunks and progress are never merged.
    pub fn merge(&mut self, next: Self) -> Option<Self> {
        match (self, next) {
            (Self::Namespaces(rows), Self::Namespaces(more)) => rows.extend(more),
            (Self::Edges(rows), Self::Edges(more)) => merge_rows(rows, more),
            (Self::Routes(rows), Self::Routes(more)) => rows.extend(more),
            (Self::Tokens(rows), Self::Tokens(more)) => rows.extend(more),
            (Self::Certs(rows), Self::Certs(more)) => rows.extend(more),
            (Self::Admins(rows), Self::Admins(more)) => rows.extend(more),
            (Self::Audit(rows), Self::Audit(more)) => rows.extend(more),
            (Self::Controllers(rows), Self::Controllers(more)) => rows.extend(more),
            (Self::Sessions(rows), Self::Sessions(more)) => merge_rows(rows, more),
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

/// Cuts a list where it gets too long or exceeds the budget.
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

/// A row of an edge, whose links and problems may be spread over several consecutive rows.
trait EdgeLinks: Sized {
    fn edge(&self) -> (&Label, &Label);
    fn links(&mut self) -> &mut Vec<LinkReport>;
    fn problems(&mut self) -> &mut Problems;
    /// A further row of the same edge, without problems.
    fn continued(&self, links: Vec<LinkReport>) -> Self;
}

impl EdgeLinks for EdgeRow {
    fn edge(&self) -> (&Label, &Label) {
        (&self.namespace, &self.name)
    }

    fn links(&mut self) -> &mut Vec<LinkReport> {
        &mut self.links
    }

    fn problems(&mut self) -> &mut Problems {
        &mut self.problems
    }

    fn continued(&self, links: Vec<LinkReport>) -> Self {
        Self {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            cidrs: Vec::new(),
            endpoints: Vec::new(),
            description: String::new(),
            state: self.state,
            software: String::new(),
            address: None,
            applied: None,
            cert_expires: None,
            links,
            no_link_to: Vec::new(),
            problems: Problems::default(),
        }
    }
}

impl EdgeLinks for SessionRow {
    fn edge(&self) -> (&Label, &Label) {
        (&self.namespace, &self.edge)
    }

    fn links(&mut self) -> &mut Vec<LinkReport> {
        &mut self.links
    }

    fn problems(&mut self) -> &mut Problems {
        &mut self.problems
    }

    fn continued(&self, links: Vec<LinkReport>) -> Self {
        let (namespace, edge) = (self.namespace.clone(), self.edge.clone());
        let Self { online, since, address, applied, .. } = *self;
        let (software, problems) = (String::new(), Problems::default());
        let detail = SessionDetail::default();
        Self { namespace, edge, online, since, software, address, applied, links, problems, detail }
    }
}

/// Cuts a row into several of [`MAX_LINKS`] links, and one with the problems if there are any.
fn split_links<T: EdgeLinks>(mut row: T) -> Vec<T> {
    let links = std::mem::take(row.links());
    let problems = std::mem::take(row.problems());
    let mut lists = links.chunks(MAX_LINKS).map(<[LinkReport]>::to_vec);
    *row.links() = lists.next().unwrap_or_default();
    let mut more: Vec<T> = lists.map(|links| row.continued(links)).collect();
    if problems != Problems::default() {
        let mut last = row.continued(Vec::new());
        *last.problems() = problems;
        more.push(last);
    }
    std::iter::once(row).chain(more).collect()
}

fn merged<T: EdgeLinks>(rows: Vec<T>) -> Vec<T> {
    let mut merged = Vec::with_capacity(rows.len());
    merge_rows(&mut merged, rows);
    merged
}

fn merge_rows<T: EdgeLinks>(rows: &mut Vec<T>, more: Vec<T>) {
    for mut row in more {
        match rows.last_mut() {
            Some(last) if last.edge() == row.edge() => {
                last.links().append(row.links());
                let problems = std::mem::take(row.problems());
                last.problems().problems.extend(problems.problems);
                last.problems().more += problems.more;
            }
            _ => rows.push(row),
        }
    }
}

/// Controllers, then namespaces, then problems. Each piece has the mesh's own data.
fn split_status(mut status: MeshStatus) -> Vec<Reply> {
    let namespaces = cut(std::mem::take(&mut status.namespaces));
    let problems = cut(std::mem::take(&mut status.problems));
    let empty = MeshStatus { controllers: Vec::new(), ..status.clone() };
    let namespaces =
        namespaces.into_iter().map(|namespaces| MeshStatus { namespaces, ..empty.clone() });
    let problems = problems.into_iter().map(|problems| MeshStatus { problems, ..empty.clone() });
    let first = std::iter::once(status);
    first.chain(namespaces).chain(problems).map(Reply::Status).collect()
}

/// The sentence, then the roots, then the issuing CAs.
fn split_ca(status: CaStatus) -> Vec<Reply> {
    let CaStatus { roots, issuers, next } = status;
    let piece = |roots, issuers| CaStatus { roots, issuers, next: String::new() };
    let mut pieces = vec![CaStatus { next, ..piece(Vec::new(), Vec::new()) }];
    pieces.extend(cut(roots).into_iter().map(|roots| piece(roots, Vec::new())));
    pieces.extend(cut(issuers).into_iter().map(|issuers| piece(Vec::new(), issuers)));
    pieces.into_iter().map(Reply::Ca).collect()
}

/// Bytes that a row takes in memory besides its place in the list: at least what [`BUDGET`] counts.
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
        let no_link: usize = self.no_link_to.iter().map(|peer| TEXT + peer.as_str().len()).sum();
        let no_link = no_link + seq_cost(self.no_link_to.len(), 24);
        let texts = self.description.len() + self.software.len();
        let problems = weigh_problems(&self.problems);
        4 * TEXT + names + texts + endpoints + links + lists + no_link + problems
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
            + weigh_problems(&self.problems)
    }
}

fn weigh_problems(all: &Problems) -> usize {
    let text = |problem: &Problem| {
        let fix = problem.fix.as_ref().map_or(0, String::len);
        4 * TEXT + problem.code.as_str().len() + problem.about.len() + problem.text.len() + fix
    };
    let texts: usize = all.problems.iter().map(text).sum();
    texts + seq_cost(all.problems.len(), size_of::<Problem>())
}

impl Weigh for NamespaceStatus {
    fn weigh(&self) -> usize {
        TEXT + self.name.as_str().len()
    }
}

impl Weigh for ProblemGroup {
    fn weigh(&self) -> usize {
        let text = |example: &ProblemExample| {
            let ProblemExample { subject, about, text, fix, since_unix: _ } = example;
            4 * TEXT
                + subject.len()
                + about.len()
                + text.len()
                + fix.as_ref().map_or(0, String::len)
        };
        let examples: usize = self.examples.iter().map(text).sum();
        let list = seq_cost(self.examples.len(), size_of::<ProblemExample>());
        2 * TEXT + self.code.as_str().len() + self.title.len() + examples + list
    }
}
