//! The opening of a connection: what the client wants of the server. Eight bytes, so that a stray client is refused.

/// Bytes of the opening.
pub const OPENING: usize = 8;
const MAGIC: [u8; 4] = *b"KLB1";

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One byte each way, many times on one connection.
    RequestResponse,
    /// Connect, one byte each way, close; again and again.
    ConnectRequestResponse,
    /// The client sends as fast as the network takes it.
    Stream,
}

impl Mode {
    /// The opening that asks for this mode.
    pub fn opening(self) -> [u8; OPENING] {
        let mut bytes = [0; OPENING];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = match self {
            Self::RequestResponse => 1,
            Self::ConnectRequestResponse => 2,
            Self::Stream => 3,
        };
        bytes
    }

    /// The mode an opening asks for; `None` if it is not one of ours.
    pub fn parse(opening: [u8; OPENING]) -> Option<Self> {
        if opening[..4] != MAGIC || opening[5..] != [0; 3] {
            return None;
        }
        match opening[4] {
            1 => Some(Self::RequestResponse),
            2 => Some(Self::ConnectRequestResponse),
            3 => Some(Self::Stream),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_read_back_from_its_opening() {
        for mode in [Mode::RequestResponse, Mode::ConnectRequestResponse, Mode::Stream] {
            assert_eq!(Mode::parse(mode.opening()), Some(mode));
        }
    }

    #[test]
    fn a_stray_client_is_refused() {
        assert_eq!(Mode::parse(*b"GET / HT"), None);
        assert_eq!(Mode::parse(*b"KLB1\x09\0\0\0"), None);
        assert_eq!(Mode::parse(*b"KLB1\x01\0\0\x01"), None);
    }
}
