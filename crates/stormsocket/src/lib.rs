//! Event-based TCP, TLS and WebSocket servers and clients on tokio: subscribe to events, configure options, go
