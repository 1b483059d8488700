//! Requests and answers.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::error::{Code, Error, Result};

/// More than the kernel puts into one answer.
const BUFFER: usize = 64 * 1024;

/// One request, with words for its failure.
pub struct Request {
    /// "give the pod its address": what the error says was attempted.
    pub what: &'static str,
    /// The message.
    pub message: RouteNetlinkMessage,
    /// Flags beside REQUEST and ACK.
    pub flags: u16,
}

impl Request {
    /// A request with more flags.
    #[must_use]
    pub const fn new(what: &'static str, message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { what, message, flags }
    }
}

/// The messages that answered a request, or its errno.
pub type Reply = io::Result<Vec<RouteNetlinkMessage>>;

/// A socket in one namespace.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    place: &'static str,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace; `place` names it in errors ("the node", "the pod").
    pub fn open(place: &'static str) -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            // Answers need not repeat the request; dumps honour their filters.
            socket.set_cap_ack(true)?;
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        let socket =
            open().map_err(|e| Error::new(Code::Io, format!("open a netlink socket in {place}: {e}")))?;
        Ok(Self {
            socket,
            sequence: 0,
            place,
        })
    }

    /// The namespace's SO_NETNS_COOKIE: the same for its whole life, and never given to another.
    pub fn cookie(&self) -> Result<u64> {
        let mut cookie = 0_u64;
        let mut length = size_of::<u64>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `cookie`, which is that long; both outlive the call.
        let status = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        if status == 0 {
            return Ok(cookie);
        }
        let cause = io::Error::last_os_error();
        Err(Error::new(
            Code::Io,
            format!(
                "ask for the network namespace's cookie in {}: {cause}",
                self.place
            ),
        ))
    }

    /// Sends all requests at once and returns their answers in order. The kernel works through all of them inside the
    /// one system call, so a signal does not part them.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<Vec<Reply>> {
        let first = self.sequence + 1;
        let count = requests.len();
        let mut bytes = Vec::with_capacity(count * 128);
        for request in requests {
            self.sequence += 1;
            append(
                &mut bytes,
                request.message,
                NLM_F_REQUEST | NLM_F_ACK | request.flags,
                self.sequence,
            );
        }
        self.send(&bytes)?;
        let mut replies: Vec<Reply> = (0..count).map(|_| Ok(Vec::new())).collect();
        let mut open = count;
        while open > 0 {
            for message in self.receive()? {
                let Some(reply) = message
                    .header
                    .sequence_number
                    .checked_sub(first)
                    .and_then(|i| replies.get_mut(i as usize))
                else {
                    continue;
                };
                match message.payload {
                    NetlinkPayload::Error(error) => {
                        open -= 1;
                        if error.code.is_some() {
                            *reply = Err(error.to_io());
                        }
                    }
                    NetlinkPayload::InnerMessage(inner) => {
                        if let Ok(list) = reply {
                            list.push(inner);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(replies)
    }

    /// Sends all requests and fails with the first one that failed.
    pub fn all(&mut self, requests: Vec<Request>) -> Result<Vec<Vec<RouteNetlinkMessage>>> {
        let names: Vec<&'static str> = requests.iter().map(|r| r.what).collect();
        let replies = self.batch(requests)?;
        let named = names.into_iter().zip(replies);
        named
            .map(|(what, reply)| reply.map_err(|e| self.failed(what, &e)))
            .collect()
    }

    /// Sends one request.
    pub fn one(&mut self, request: Request) -> Result<Reply> {
        Ok(self.batch(vec![request])?.pop().unwrap_or_else(|| Ok(Vec::new())))
    }

    /// Asks for everything of a kind.
    pub fn dump(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        // A dump that something changed under is asked again, as the kernel wants it.
        for _ in 0..5 {
            if let Some(all) = self.try_dump(what, message.clone())? {
                return Ok(all);
            }
        }
        Err(self.failed(what, &io::Error::from_raw_os_error(libc::EINTR)))
    }

    fn try_dump(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>> {
        const INTERRUPTED: u16 = 0x10;
        self.sequence += 1;
        let mut bytes = Vec::with_capacity(128);
        append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP, self.sequence);
        self.send(&bytes)?;
        let (mut all, mut torn) = (Vec::new(), false);
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                torn |= message.header.flags & INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok((!torn).then_some(all)),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(self.failed(what, &error.to_io()));
                    }
                    NetlinkPayload::InnerMessage(inner) => all.push(inner),
                    _ => {}
                }
            }
        }
    }

    /// Words for an errno.
    #[must_use]
    pub fn failed(&self, what: &str, cause: &io::Error) -> Error {
        Error::new(Code::Io, format!("{what} in {}: {cause}", self.place))
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        let sent = self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0);
        sent.map(|_| ())
            .map_err(|e| self.failed("send a netlink request", &e))
    }

    fn receive(&self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
        loop {
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed("receive a netlink answer", &e)),
            }
        }
        let mut messages = Vec::new();
        let mut rest = buffer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest)
                .map_err(|e| Error::new(Code::Io, format!("read a netlink answer in {}: {e}", self.place)))?;
            // Messages are aligned to four bytes; a length of zero cannot be, since the header was read.
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            messages.push(message);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(messages)
    }
}

impl AsRawFd for Netlink {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn append(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}
