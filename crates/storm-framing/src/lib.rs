//! Message framing for byte streams: raw, length prefix, delimiter, and any tokio-util codec
