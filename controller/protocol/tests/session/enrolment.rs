//! Joining a mesh.

use std::time::Duration;

use cframe_pki::{
    Fingerprint,
    token::{JoinToken, TokenId, TokenSecret},
};
use cframe_protocol::{
    frame::MAX_UNAUTHENTICATED,
    session::{EnrollFailure, FrameReader, FrameWriter, enroll},
    v1::{CallError, EnrollReply, EnrollRequest, Enrolled, ErrorCode, Settings},
};

use crate::{
    server::{Server, soon},
    session_test::SessionTest,
};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_token_is_exchanged_for_a_certificate() {
    let test = SessionTest::new();
    let server = Server::enroll(test.enroll_server());
    let token = token(&server, test.pin());
    let answering = answer(&server, Ok(enrolled()));
    let (result, request) = tokio::join!(enroll(&token, vec![1, 2, 3], None, LIMIT), answering);
    assert_eq!(result.unwrap(), enrolled());
    assert_eq!(request.token_id, *token.id.as_bytes());
    assert_eq!(request.secret, token.secret.as_bytes());
    assert_eq!(request.csr, [1, 2, 3]);
}

#[tokio::test]
async fn an_overloaded_controller_is_tried_again() {
    let test = SessionTest::new();
    let server = Server::enroll(test.enroll_server());
    let token = token(&server, test.pin());
    let answering = async {
        for _ in 0..2 {
            soon(server.0.accept()).await.unwrap().refuse();
        }
        answer(&server, Ok(enrolled())).await
    };
    let (result, _) = tokio::join!(enroll(&token, vec![1], None, LIMIT), answering);
    assert_eq!(result.unwrap(), enrolled());
}

#[tokio::test]
async fn a_controller_that_stays_overloaded_does_not_get_the_token() {
    let test = SessionTest::new();
    let server = Server::enroll(test.enroll_server());
    let token = token(&server, test.pin());
    let refusing = async {
        while let Some(incoming) = server.0.accept().await {
            incoming.refuse();
        }
    };
    let joining = enroll(&token, vec![1], None, Duration::from_millis(500));
    tokio::select! {
        () = refusing => panic!("the endpoint has closed"),
        result = joining => match result {
            Err(EnrollFailure::Unreachable(unreachable)) => assert!(unreachable.is_busy()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_to_a_server_with_another_root() {
    let test = SessionTest::new();
    let impostor = SessionTest::new();
    let server = Server::enroll(impostor.enroll_server());
    let token = token(&server, test.pin());
    let waiting = async {
        // The handshake must fail. If the server's side finishes, no stream must arrive.
        let connection = match server.connection().await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        match soon(connection.accept_bi()).await {
            Ok(_) => panic!("the client has opened a stream"),
            Err(error) => {
                assert_eq!(connection.stats().frame_rx.stream, 0);
                error
            }
        }
    };
    let (result, error) = tokio::join!(enroll(&token, vec![1], None, LIMIT), waiting);
    assert!(matches!(result, Err(EnrollFailure::Unreachable(_))), "{result:?}");
    let alert = cframe_protocol::session::CertificateAlert::of(&error);
    assert!(alert.is_some(), "{error}");
}

#[tokio::test]
async fn nothing_is_sent_to_an_edge_that_poses_as_a_controller() {
    let test = SessionTest::new();
    // The right root and port with the wrong role. It has the TLS configuration of a control server.
    let server = Server::enroll(test.control_server_as("ns/prod/edge/mallory"));
    let token = token(&server, test.pin());
    let (result, connection) =
        tokio::join!(enroll(&token, vec![1], None, LIMIT), server.connection());
    assert!(matches!(result, Err(EnrollFailure::Unreachable(_))), "{result:?}");
    assert!(connection.is_err());
}

#[tokio::test]
async fn the_right_controller_is_found_next_to_a_wrong_one() {
    let test = SessionTest::new();
    let impostor = Server::enroll(SessionTest::new().enroll_server());
    let server = Server::enroll(test.enroll_server());
    let addresses = [&impostor, &server].map(|server| server.address().to_string()).to_vec();
    let token = JoinToken { addresses, ..token(&server, test.pin()) };
    let refusing = async {
        while let Some(incoming) = impostor.0.accept().await {
            assert!(incoming.await.is_err());
        }
    };
    let joining = async {
        let answering = answer(&server, Ok(enrolled()));
        tokio::join!(enroll(&token, vec![1], None, LIMIT), answering).0
    };
    tokio::select! {
        () = refusing => panic!("the endpoint has closed"),
        result = joining => assert_eq!(result.unwrap(), enrolled()),
    }
}

#[tokio::test]
async fn a_token_that_was_used_is_refused() {
    let test = SessionTest::new();
    let server = Server::enroll(test.enroll_server());
    let token = token(&server, test.pin());
    let refusal = CallError::new(ErrorCode::NotAllowed, "the token was used; make a new one");
    let answering = answer(&server, Err(refusal.clone()));
    let (result, _) = tokio::join!(enroll(&token, vec![1], None, LIMIT), answering);
    assert!(matches!(result, Err(EnrollFailure::Refused(error)) if error == refusal));
}

#[tokio::test]
async fn without_an_answer_the_token_may_have_been_used() {
    let test = SessionTest::new();
    let server = Server::enroll(test.enroll_server());
    let token = token(&server, test.pin());
    let closing = async {
        let connection = server.connection().await.unwrap();
        let _stream = soon(connection.accept_bi()).await.unwrap();
        connection.close(5u32.into(), b"");
    };
    let (result, ()) = tokio::join!(enroll(&token, vec![1], None, LIMIT), closing);
    assert!(matches!(result, Err(EnrollFailure::Unanswered(_))), "{result:?}");
}

fn token(server: &Server, pin: Fingerprint) -> JoinToken {
    let addresses = vec![server.address().to_string()];
    let (id, secret) = (TokenId::generate().unwrap(), TokenSecret::generate().unwrap());
    JoinToken::new(addresses, pin, id, secret).unwrap()
}

async fn answer(server: &Server, result: Result<Enrolled, CallError>) -> EnrollRequest {
    let connection = server.connection().await.unwrap();
    let (send, receive) = soon(connection.accept_bi()).await.unwrap();
    let mut reader = FrameReader::new(receive, MAX_UNAUTHENTICATED);
    let request = soon(reader.next::<EnrollRequest>()).await.unwrap().unwrap();
    let mut writer = FrameWriter::new(send);
    writer.send(&EnrollReply { result }).await.unwrap();
    writer.finish();
    soon(connection.closed()).await;
    request
}

fn enrolled() -> Enrolled {
    Enrolled {
        mesh: "m".parse().unwrap(),
        namespace: "prod".parse().unwrap(),
        edge: "aws-hk".parse().unwrap(),
        chain: vec![vec![0x30; 600], vec![0x30; 500]],
        trust: cframe_pki::bundle::TrustBundle::default(),
        controllers: vec!["127.0.0.1:58422".parse().unwrap()],
        settings: Settings::default(),
        listen_port: 58423,
        site_prefixes: vec!["172.30.0.0/16".parse().unwrap()],
    }
}
