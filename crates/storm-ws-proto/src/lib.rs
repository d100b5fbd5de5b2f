//! RFC 6455 WebSocket and RFC 7692 permessage-deflate without I/O, clock or randomness
