//! Clients that start handshakes and finish none.

use std::{net::SocketAddr, sync::Arc};

use cframe_pki::tls;
use cframe_protocol::session::transport;
use quinn::Endpoint;
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use crate::support::{controller::TestController, wait::in_time};

/// More than a controller handles at once.
const STUCK: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_finishes_no_handshake_keeps_nobody_out() {
    let controller = TestController::with_edges(&["a"]).await;
    let a = controller.join("a").await;
    let mut stuck = JoinSet::new();
    let (answers, mut answered) = mpsc::channel(STUCK);
    for _ in 0..STUCK {
        stuck.spawn(start_handshake(a.client().tls, controller.control, answers.clone()));
    }
    for _ in 0..STUCK {
        in_time(answered.recv()).await.unwrap();
    }
    a.client().connect().await.unwrap();
}

/// Starts a handshake from 127.0.0.2, and answers a Retry to prove its address. It ignores every packet after that, and
/// sends a message to the test when the first of them arrives.
async fn start_handshake(
    tls: Arc<rustls::ClientConfig>,
    at: SocketAddr,
    answers: mpsc::Sender<()>,
) {
    let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let far = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    far.connect(at).await.unwrap();
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = endpoint.local_addr().unwrap();
    let config = transport::client_config(tls).unwrap();
    let _connecting =
        endpoint.connect_with(config, near.local_addr().unwrap(), tls::SERVER_NAME).unwrap();
    let (mut up, mut down) = ([0; 2_048], [0; 2_048]);
    let mut silent = true;
    loop {
        tokio::select! {
            read = near.recv(&mut up) => drop(far.send(&up[..read.unwrap()]).await),
            read = far.recv(&mut down) => {
                let packet = &down[..read.unwrap()];
                // Long header, type Retry (RFC 9000 §17.2.5).
                if packet[0] & 0xf0 == 0xf0 {
                    near.send_to(packet, client).await.unwrap();
                } else if std::mem::take(&mut silent) {
                    answers.send(()).await.unwrap();
                }
            }
        }
    }
}
