//! One connection as the kernel's tracker knows it.

use keelson_abi::FlowKey;

/// An answer was seen.
pub const SEEN_REPLY: u32 = 1 << 1;
/// Not to be dropped early when the table is full.
pub const ASSURED: u32 = 1 << 2;
/// In the table.
pub const CONFIRMED: u32 = 1 << 3;
/// The connection is about to be removed.
pub const DYING: u32 = 1 << 9;

/// TCP: the handshake is done.
pub const TCP_ESTABLISHED: u8 = 3;
/// TCP: an end has finished.
pub const TCP_FIN_WAIT: u8 = 4;
/// TCP: an end has finished, and the other knows.
pub const TCP_CLOSE_WAIT: u8 = 5;
/// TCP: both ends have finished.
pub const TCP_LAST_ACK: u8 = 6;
/// TCP: over; only stragglers are waited for.
pub const TCP_TIME_WAIT: u8 = 7;
/// TCP: reset.
pub const TCP_CLOSE: u8 = 8;

/// TCP: this end finished first.
pub const TCP_FLAG_CLOSE_INIT: u8 = 0x04;
/// TCP: this end's packets are taken wherever they lie in the window.
pub const TCP_FLAG_BE_LIBERAL: u8 = 0x08;

/// SCTP: over.
pub const SCTP_CLOSED: u8 = 1;
/// SCTP: about to be over.
pub const SCTP_SHUTDOWN_ACK_SENT: u8 = 7;

/// What the tracker knows of a TCP connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tcp {
    /// `TCP_*`.
    pub state: u8,
    /// `TCP_FLAG_*` of the client's end.
    pub original: u8,
    /// `TCP_FLAG_*` of the server's end.
    pub reply: u8,
}

/// One connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// What the client sends.
    pub original: FlowKey,
    /// What the server answers, as it leaves the server.
    pub reply: FlowKey,
    /// `SEEN_REPLY` and so on.
    pub status: u32,
    /// Seconds until it is forgotten.
    pub timeout: u32,
    /// Of TCP.
    pub tcp: Option<Tcp>,
    /// State of an SCTP association.
    pub sctp: Option<u8>,
    /// Connections of different zones may have the same tuples; Services' are in none (0).
    pub zone: u16,
}

impl Entry {
    /// The client's packets as they reach the server.
    pub fn translated(&self) -> FlowKey {
        self.reply.reverse()
    }

    /// Whether addresses or ports are translated.
    pub fn is_translated(&self) -> bool {
        self.original != self.translated()
    }
}
