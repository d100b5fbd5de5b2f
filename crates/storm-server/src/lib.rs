//! TCP and WebSocket servers: accept, limits, events, shutdown
