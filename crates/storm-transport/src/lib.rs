//! Sockets, socket options and the one connection loop under StormSocket
