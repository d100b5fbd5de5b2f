//! Sessions, groups, backpressure, metrics and middleware: the vocabulary StormSocket's layers share
