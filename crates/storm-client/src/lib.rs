//! TCP and WebSocket clients: connect, reconnect, events
