//! The connection of an admin or of another controller.

use std::{sync::Arc, time::Duration};

use cframe_protocol::{
    frame::MAX_FRAME,
    session::{CloseCode, FrameReader, FrameWriter},
    v1::{AdminReply, AdminRequest},
};
use quinn::Connection;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::calls::{self, Caller};
use crate::context::Context;

/// From a stream's opening to the whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For sending one piece of an answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Pieces of an answer that wait for a slow reader.
const MAX_WAITING_PIECES: usize = 4;
/// For calls under way when the controller stops.
const STOP_TIMEOUT: Duration = Duration::from_millis(600);

/// Serves the connection until it is closed, its certificate expires, or the controller stops. Calls run at the same
/// time and are aborted with it; a write that has reached the store is completed there.
pub(super) async fn serve(
    context: &Arc<Context>,
    connection: &Connection,
    caller: &Caller,
    stop: &CancellationToken,
) {
    serve_calls(context, connection, caller, stop).await;
    let code = if stop.is_cancelled() { CloseCode::Shutdown } else { CloseCode::Done };
    connection.close(code.into(), code.to_string().as_bytes());
}

async fn serve_calls(
    context: &Arc<Context>,
    connection: &Connection,
    caller: &Caller,
    stop: &CancellationToken,
) {
    let mut calls = JoinSet::new();
    let expiry = context.replica.expiry(&caller.peer);
    tokio::pin!(expiry);
    loop {
        let (send, receive) = tokio::select! {
            opened = connection.accept_bi() => match opened {
                Ok(stream) => stream,
                Err(_) => break,
            },
            () = stop.cancelled() => break,
            () = &mut expiry => break,
        };
        while calls.try_join_next().is_some() {}
        let (context, caller) = (Arc::clone(context), caller.clone());
        calls.spawn(async move {
            if let Err(error) = serve_call(&context, &caller, send, receive).await {
                tracing::debug!(caller = %caller.peer.id, %error, "a call was aborted");
            }
        });
    }
    let rest = async { while calls.join_next().await.is_some() {} };
    if connection.close_reason().is_none() {
        let _ = timeout(STOP_TIMEOUT, rest).await;
    }
}

async fn serve_call(
    context: &Arc<Context>,
    caller: &Caller,
    send: quinn::SendStream,
    receive: quinn::RecvStream,
) -> anyhow::Result<()> {
    let mut reader = FrameReader::new(receive, MAX_FRAME);
    let mut writer = FrameWriter::new(send);
    let Some(request) = timeout(REQUEST_TIMEOUT, reader.next::<AdminRequest>()).await?? else {
        return Ok(());
    };
    let (pieces, mut answer) = mpsc::channel(MAX_WAITING_PIECES);
    let answering = calls::answer(context, caller, request, pieces);
    // When the writer fails it drops the channel's receiver, which ends the answer.
    let writing = async move {
        while let Some(result) = answer.recv().await {
            timeout(SEND_TIMEOUT, writer.send(&AdminReply { result })).await??;
        }
        writer.finish();
        anyhow::Ok(())
    };
    let ((), written) = tokio::join!(answering, writing);
    written
}
