//! Admin calls.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cframe_protocol::{
    frame::MAX_FRAME,
    session::{
        AdminConnection, CallFailure, Client, CloseCode, FrameReader, FrameWriter, admin_call,
    },
    v1::{
        AdminReply, AdminRequest, Call, CallError, Changed, ErrorCode, Progress, Reply, RouteRow,
    },
};
use quinn::Connection;

use crate::{
    server::{Server, soon, version},
    session_test::SessionTest,
};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_call_is_answered() {
    let (_, server, client) = mesh();
    let call = Call::EdgeDel { namespace: "prod".parse().unwrap(), name: "idc".parse().unwrap() };
    let reply = Reply::Changed(Changed { version: version(3), warnings: Vec::new() });
    let answering = async {
        let connection = server.connection().await.unwrap();
        let (request, mut writer) = request(&connection).await;
        assert_eq!(request, AdminRequest { call: call.clone(), dry_run: true });
        writer.send(&AdminReply { result: Ok(reply.clone()) }).await.unwrap();
        writer.finish();
        soon(connection.closed()).await
    };
    let (replies, closed) = tokio::join!(admin_call(&client, call.clone(), true, LIMIT), answering);
    assert_eq!(replies.unwrap(), vec![reply.clone()]);
    assert_eq!(CloseCode::of(&closed), Some(CloseCode::Done));
}

#[tokio::test]
async fn a_close_arrives_and_is_not_waited_for() {
    let (_, server, client) = mesh();
    let (connected, connection) = tokio::join!(AdminConnection::connect(&client), async {
        server.connection().await.unwrap()
    });
    let started = Instant::now();
    connected.unwrap().close().await;
    let took = started.elapsed();
    assert_eq!(CloseCode::of(&soon(connection.closed()).await), Some(CloseCode::Done));
    // A drained connection takes three times the probe timeout.
    assert!(took < Duration::from_millis(20), "{took:?}");
}

#[tokio::test]
async fn ten_thousand_rows_come_in_many_frames_and_arrive_as_one_list() {
    let (_, server, client) = mesh();
    let row = |n: u32| RouteRow {
        namespace: "prod".parse().unwrap(),
        name: format!("r{n}").parse().unwrap(),
        prefix: "10.0.0.0/8".parse().unwrap(),
        edge: "idc".parse().unwrap(),
    };
    let routes = Reply::Routes((0..10_000).map(row).collect());
    let pieces = routes.clone().split();
    assert!(pieces.len() > 100);
    let answering = answer(&server, pieces.into_iter().map(Ok).collect());
    let call = Call::RouteList { namespace: None };
    let (replies, ()) = tokio::join!(admin_call(&client, call, false, LIMIT), answering);
    assert_eq!(replies.unwrap(), vec![routes]);
}

#[tokio::test]
async fn a_refusal_has_the_controllers_text() {
    let (_, server, client) = mesh();
    let refusal = CallError {
        code: ErrorCode::NotFound,
        message: "edge \"aws-hq\" does not exist in prod".into(),
        hint: Some("did you mean aws-hk?".into()),
    };
    let answering = answer(&server, vec![Err(refusal.clone())]);
    let (replies, ()) = tokio::join!(admin_call(&client, Call::Status, false, LIMIT), answering);
    let failure = replies.unwrap_err();
    assert!(matches!(&failure, CallFailure::Refused(error) if *error == refusal));
    let text = "edge \"aws-hq\" does not exist in prod; did you mean aws-hk?";
    assert_eq!(failure.to_string(), text);
}

#[tokio::test]
async fn progress_arrives_piece_by_piece() {
    let (_, server, client) = mesh();
    let progress = |acked| Reply::Progress(Progress { acked, total: 3, waiting: Vec::new() });
    let answering = async {
        let connection = server.connection().await.unwrap();
        let (_, mut writer) = request(&connection).await;
        for acked in 1..=3 {
            writer.send(&AdminReply { result: Ok(progress(acked)) }).await.unwrap();
        }
        writer.finish();
        soon(connection.closed()).await;
    };
    let asking = async {
        let admin = AdminConnection::connect(&client).await.unwrap();
        let mut replies = admin.call(Call::Backup, false).await.unwrap();
        for acked in 1..=3 {
            assert_eq!(replies.next().await.unwrap(), Some(progress(acked)));
        }
        assert_eq!(replies.next().await.unwrap(), None);
        admin.close().await;
    };
    tokio::join!(answering, asking);
}

#[tokio::test]
async fn a_malformed_answer_is_an_error() {
    for garbage in [&b""[..], b"\x00\x00\x00\x08\x00\x29\x00\xff\xff\xff\xff\xff", b"\x00\x00"] {
        let (_, server, client) = mesh();
        let answering = async {
            let connection = server.connection().await.unwrap();
            let (mut send, _receive) = soon(connection.accept_bi()).await.unwrap();
            send.write_all(garbage).await.unwrap();
            send.finish().unwrap();
            soon(connection.closed()).await;
        };
        let (replies, ()) =
            tokio::join!(admin_call(&client, Call::Status, false, LIMIT), answering);
        assert!(matches!(replies, Err(CallFailure::Protocol(_))), "{replies:?}");
    }
}

#[tokio::test]
async fn a_lost_connection_differs_from_an_unreachable_controller() {
    let (_, server, client) = mesh();
    let answering = async {
        let connection = server.connection().await.unwrap();
        let _stream = request(&connection).await;
        connection.close(CloseCode::Shutdown.into(), b"");
    };
    let (replies, ()) = tokio::join!(admin_call(&client, Call::Status, false, LIMIT), answering);
    assert!(matches!(replies, Err(CallFailure::Lost(_))), "{replies:?}");

    let unused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = unused.local_addr().unwrap().into();
    let nowhere = Client { addresses: vec![address], ..client };
    let replies = admin_call(&nowhere, Call::Status, false, LIMIT).await;
    assert!(matches!(replies, Err(CallFailure::Unreachable(_))), "{replies:?}");
}

#[tokio::test]
async fn a_controller_that_does_not_answer_times_out() {
    let (_, server, client) = mesh();
    let limit = Duration::from_millis(500);
    let holding = async {
        let connection = server.connection().await.unwrap();
        let _stream = request(&connection).await;
        soon(connection.closed()).await;
    };
    let (replies, ()) = tokio::join!(admin_call(&client, Call::Status, false, limit), holding);
    assert!(matches!(replies, Err(CallFailure::TimedOut(_))), "{replies:?}");
}

#[tokio::test]
async fn a_revoked_admin_gets_the_reason() {
    let (test, server, _) = mesh();
    let credentials = test.credentials("admin/mallory");
    let client = Client::new(vec![server.address()], test.client(&credentials));
    test.deny(&credentials);
    let (replies, connection) =
        tokio::join!(admin_call(&client, Call::Status, false, LIMIT), server.connection());
    assert!(connection.is_err());
    let Err(CallFailure::Refused(error)) = replies else {
        panic!("{replies:?}");
    };
    assert_eq!(error.code, ErrorCode::NotAllowed);
}

fn mesh() -> (SessionTest, Server, Client) {
    let test = SessionTest::new();
    let server = Server::control(test.control_server());
    let tls: Arc<rustls::ClientConfig> = test.client(&test.credentials("admin/alice"));
    let client = Client::new(vec![server.address()], tls);
    (test, server, client)
}

async fn request(connection: &Connection) -> (AdminRequest, FrameWriter) {
    let (send, receive) = soon(connection.accept_bi()).await.unwrap();
    let mut reader = FrameReader::new(receive, MAX_FRAME);
    let request = soon(reader.next::<AdminRequest>()).await.unwrap().unwrap();
    assert_eq!(soon(reader.next::<AdminRequest>()).await.unwrap(), None, "one request a stream");
    (request, FrameWriter::new(send))
}

async fn answer(server: &Server, results: Vec<Result<Reply, CallError>>) {
    let connection = server.connection().await.unwrap();
    let (_, mut writer) = request(&connection).await;
    for result in results {
        soon(writer.send(&AdminReply { result })).await.unwrap();
    }
    writer.finish();
    soon(connection.closed()).await;
}
