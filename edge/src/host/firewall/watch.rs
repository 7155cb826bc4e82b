//! Notifications of nf_tables, reduced to changes of the edge's table by others.

use std::{collections::VecDeque, io};

use bytes::BytesMut;
use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};
use rustix::{
    io::Errno,
    net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force},
};

use super::wire::{self, Kind, Message, attribute, kind};
use crate::host::culprit::Culprit;

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;
/// Other programs replace thousands of rules at once. What does not fit is lost, and then the table is read.
const SOCKET_BUFFER: usize = 4 << 20;
const DATAGRAM: usize = 64 << 10;
/// Sockets of our own that are remembered: notifications of a change arrive soon after it.
const MAX_OWN: usize = 8;

/// What happened to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Another program has changed it.
    ByOther(Culprit),
    /// Notifications were lost, so it may have been changed.
    Unknown,
}

pub(super) struct Watch {
    socket: TokioSocket,
    buffer: BytesMut,
    filter: Filter,
}

impl Watch {
    pub(super) fn open(table: String) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        let inner = socket.socket_mut();
        // Beyond the system's limit, if that is permitted.
        let _ = set_socket_recv_buffer_size_force(&*inner, SOCKET_BUFFER)
            .or_else(|_| set_socket_recv_buffer_size(&*inner, SOCKET_BUFFER));
        inner.bind(&SocketAddr::new(0, 0))?;
        inner.add_membership(GROUP)?;
        Ok(Self {
            socket,
            buffer: BytesMut::with_capacity(DATAGRAM),
            filter: Filter { table, ..Filter::default() },
        })
    }

    /// Changes made by the socket with this number are our own.
    pub(super) fn ignore(&mut self, port: u32) {
        self.filter.ignore(port);
    }

    /// Waits for a change by another program. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<Change> {
        loop {
            if let Some(change) = self.filter.changes.pop_front() {
                return Ok(change);
            }
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(_) => self.filter.read(&self.buffer),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                    return Ok(Change::Unknown);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[derive(Debug, Default)]
struct Filter {
    table: String,
    own: VecDeque<u32>,
    /// The socket that has changed the table in the transaction whose notifications are being read.
    by: Option<u32>,
    changes: VecDeque<Change>,
}

impl Filter {
    fn ignore(&mut self, port: u32) {
        if self.own.len() == MAX_OWN {
            self.own.pop_front();
        }
        self.own.push_back(port);
    }

    fn read(&mut self, datagram: &[u8]) {
        for message in wire::messages(datagram) {
            let Kind::Nftables(number) = message.kind else { continue };
            if number == kind::NEW_GENERATION {
                // The last notification of a transaction says who made it.
                if self.by.take() == Some(message.port) {
                    self.changes.push_back(Change::ByOther(culprit(&message)));
                }
            } else if !self.own.contains(&message.port) && message.is_about(&self.table) {
                self.by = Some(message.port);
            }
        }
    }
}

fn culprit(message: &Message<'_>) -> Culprit {
    let pid = message.attribute(attribute::PROCESS_ID).map(wire::number).unwrap_or_default();
    let name = message.attribute(attribute::PROCESS_NAME).map(wire::text).unwrap_or_default();
    let pid = u32::try_from(pid).unwrap_or_default();
    Culprit::new(pid, String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(number: u8, port: u32, table: &str) -> Vec<u8> {
        let mut attributes = Vec::new();
        if number == kind::NEW_GENERATION {
            wire::push(&mut attributes, attribute::TABLE, &5_u32.to_be_bytes());
            wire::push(&mut attributes, attribute::PROCESS_ID, &u32::MAX.to_be_bytes());
            wire::push_text(&mut attributes, attribute::PROCESS_NAME, "keeper");
        } else {
            wire::push_text(&mut attributes, attribute::TABLE, table);
        }
        let mut message = wire::request(number, 0, 0, &attributes);
        message[12..16].copy_from_slice(&port.to_ne_bytes());
        message
    }

    #[test]
    fn only_changes_of_our_table_by_others_are_reported_once_with_who_made_them() {
        let mut filter = Filter { table: "cframe-cframe0".to_owned(), ..Filter::default() };
        filter.ignore(40);
        let transaction = |port, tables: &[&str]| {
            let mut all: Vec<Vec<u8>> =
                tables.iter().map(|table| notification(kind::NEW_RULE, port, table)).collect();
            all.push(notification(kind::NEW_GENERATION, port, ""));
            all.concat()
        };
        filter.read(&transaction(41, &["filter", "nat"]));
        filter.read(&transaction(40, &["cframe-cframe0"]));
        filter.read(&transaction(42, &["cframe-prod"]));
        assert_eq!(filter.changes, []);
        filter.read(&transaction(43, &["filter", "cframe-cframe0", "cframe-cframe0"]));
        let culprit = Culprit { pid: u32::MAX, name: "keeper".to_owned(), parent: None };
        assert_eq!(filter.changes, [Change::ByOther(culprit)]);
    }
}
