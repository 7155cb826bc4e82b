//! Calls of an admin, and what their answers must be.

use cframe_pki::{Fingerprint, key::PrivateKey, token::JoinToken};
use cframe_protocol::{
    session::{AdminConnection, CallFailure, Client, admin_call},
    v1::{
        AdminRow, AuditQuery, AuditRow, CaStatus, Call, CallError, CertRow, Changed, EdgeRow,
        HolderRow, MeshStatus, RegistrationRow, Reply, RouteRow, TokenMade, TokenRow,
    },
};

use super::{
    calls::{edge_add, label, namespace_add, token_create},
    credentials::AdminIdentity,
    wait::TIMEOUT,
};

/// Anything that has an admin's client. Everything is in namespace `prod` where none is named.
pub(crate) trait AdminCalls {
    fn client(&self) -> &Client;

    async fn admin_connection(&self) -> AdminConnection {
        AdminConnection::connect(self.client()).await.unwrap()
    }

    async fn call(&self, call: Call) -> Result<Vec<Reply>, CallFailure> {
        admin_call(self.client(), call, false, TIMEOUT).await
    }

    async fn dry_run(&self, call: Call) -> Result<Vec<Reply>, CallFailure> {
        admin_call(self.client(), call, true, TIMEOUT).await
    }

    /// The only piece of the answer.
    async fn reply(&self, call: Call) -> Reply {
        let mut replies = self.call(call).await.unwrap();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    /// All pieces of the answer as one.
    async fn merged_reply(&self, call: Call) -> Reply {
        let mut pieces = self.call(call).await.unwrap().into_iter();
        let mut merged = pieces.next().unwrap();
        for piece in pieces {
            assert_eq!(merged.merge(piece), None);
        }
        merged
    }

    async fn change(&self, call: Call) -> Changed {
        match self.reply(call).await {
            Reply::Changed(changed) => changed,
            other => panic!("{other:?}"),
        }
    }

    async fn refusal(&self, call: Call) -> CallError {
        refused(self.call(call).await)
    }

    async fn add_namespace(&self, name: &str) -> Changed {
        self.change(namespace_add(name)).await
    }

    async fn add_edge(&self, namespace: &str, name: &str, cidr: &str) -> Changed {
        self.change(edge_add(namespace, name, cidr)).await
    }

    /// Adds namespace `prod` and its edges, with one prefix each: 10.1.0.0/16, 10.2.0.0/16, …
    async fn add_edges(&self, names: &[&str]) {
        self.add_namespace("prod").await;
        for (index, name) in names.iter().enumerate() {
            self.add_edge("prod", name, &format!("10.{}.0.0/16", index + 1)).await;
        }
    }

    async fn token(&self, edge: &str) -> JoinToken {
        self.make_token(token_create(edge, false)).await
    }

    async fn rejoin_token(&self, edge: &str) -> JoinToken {
        self.make_token(token_create(edge, true)).await
    }

    async fn make_token(&self, call: Call) -> JoinToken {
        match self.reply(call).await {
            Reply::TokenMade(TokenMade { token, .. }) => token.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn tokens(&self) -> Vec<TokenRow> {
        match self.merged_reply(Call::TokenList { namespace: None }).await {
            Reply::Tokens(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// The texts of all examples of problems in the status.
    async fn problems(&self) -> Vec<String> {
        let groups = self.status().await.problems;
        groups.into_iter().flat_map(|group| group.examples).map(|example| example.text).collect()
    }

    async fn status(&self) -> MeshStatus {
        match self.merged_reply(Call::Status).await {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    async fn ca_status(&self) -> CaStatus {
        match self.merged_reply(Call::CaStatus).await {
            Reply::Ca(status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Who has a certificate by a root or an issuing CA.
    async fn holders(&self, ca: Fingerprint) -> Vec<HolderRow> {
        match self.merged_reply(Call::CaHolders { fingerprint: ca }).await {
            Reply::Holders(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    async fn edges(&self) -> Vec<EdgeRow> {
        match self.merged_reply(Call::EdgeList { namespace: None }).await {
            Reply::Edges(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    async fn edge(&self, name: &str) -> EdgeRow {
        let call = Call::EdgeShow { namespace: label("prod"), name: label(name) };
        match self.reply(call).await {
            Reply::Edges(mut rows) => rows.remove(0),
            other => panic!("{other:?}"),
        }
    }

    async fn routes(&self) -> Vec<RouteRow> {
        match self.merged_reply(Call::RouteList { namespace: None }).await {
            Reply::Routes(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// The certificates of the edges of a namespace, or all: of edges, controllers and admins.
    async fn certs(&self, namespace: Option<&str>) -> Vec<CertRow> {
        match self.merged_reply(Call::CertList { namespace: namespace.map(label) }).await {
            Reply::Certs(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    async fn admins(&self) -> Vec<AdminRow> {
        match self.merged_reply(Call::AdminList).await {
            Reply::Admins(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    async fn controllers(&self) -> Vec<RegistrationRow> {
        match self.merged_reply(Call::ControllerList).await {
            Reply::Controllers(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    async fn controller(&self, name: &str) -> RegistrationRow {
        match self.reply(Call::ControllerShow { name: label(name) }).await {
            Reply::Controllers(mut rows) => rows.remove(0),
            other => panic!("{other:?}"),
        }
    }

    async fn audit(&self, query: AuditQuery) -> Vec<AuditRow> {
        match self.merged_reply(Call::Audit(query)).await {
            Reply::Audit(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// A certificate for a new key of an admin.
    async fn enrol_admin(&self, name: &str, read_only: bool) -> Result<AdminIdentity, CallFailure> {
        let key = PrivateKey::generate().unwrap();
        let csr = key.csr().unwrap().to_vec();
        let call = Call::AdminAdd { name: label(name), csr, read_only };
        match self.call(call).await?.remove(0) {
            Reply::AdminEnrolled(enrolled) => Ok(AdminIdentity { enrolled, key }),
            other => panic!("{other:?}"),
        }
    }
}

impl AdminCalls for Client {
    fn client(&self) -> &Client {
        self
    }
}

pub(crate) fn refused(result: Result<Vec<Reply>, CallFailure>) -> CallError {
    match result {
        Err(CallFailure::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// A call on a connection that stays open.
pub(crate) async fn call_on(
    connection: &AdminConnection,
    call: Call,
) -> Result<Vec<Reply>, CallFailure> {
    connection.call(call, false).await?.collect().await
}
