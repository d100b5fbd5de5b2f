//! Lines to and from the terminal, each way a thread of its own: neither a person who does not type nor a terminal
//! that is held up (Ctrl-S, a full pipe) may keep a session waiting.
//!
//! Both queues are bounded: what the terminal does not take in time is counted and left out, what is typed waits.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;

/// Lines that wait for the terminal, at most.
const MAX_WAITING: usize = 1_024;
/// Bytes of a line that is typed, at most.
const MAX_LINE: usize = 8 * 1024;
/// How long a working terminal may take to show what waits for it.
const FLUSH: Duration = Duration::from_secs(1);

/// Prints lines without waiting for the terminal. Whether anyone reads them makes no difference to the server.
#[derive(Clone)]
pub(crate) struct Printer(Arc<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    /// Lines that found no room since the last that was printed.
    lost: u64,
    /// A line is on its way to the terminal.
    printing: bool,
}

impl Printer {
    /// A printer to the standard output.
    pub(crate) fn start() -> Self {
        Self::to(io::stdout())
    }

    fn to(out: impl Write + Send + 'static) -> Self {
        let queue = Arc::new(Queue::default());
        let printer = Self(queue.clone());
        thread::spawn(move || queue.print_all(out));
        printer
    }

    /// Prints `text`, or counts it as lost.
    pub(crate) fn print(&self, text: impl Into<String>) {
        let mut waiting = self.0.lock();
        if waiting.lines.len() < MAX_WAITING {
            waiting.lines.push_back(text.into());
            self.0.changed.notify_all();
        } else {
            waiting.lost += 1;
        }
    }

    /// Waits until all is out, for as long as a working terminal takes at most.
    pub(crate) fn flush(&self) {
        let unfinished = |waiting: &mut Waiting| waiting.printing || !waiting.lines.is_empty();
        let _in_time = self.0.changed.wait_timeout_while(self.0.lock(), FLUSH, unfinished);
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print_all(&self, mut out: impl Write) {
        let mut waiting = self.lock();
        loop {
            while let Some(line) = waiting.lines.pop_front() {
                let lost = std::mem::take(&mut waiting.lost);
                waiting.printing = true;
                drop(waiting);
                // A closed terminal is no reason to stop serving, so failures to write end nothing here.
                let _ = writeln!(out, "{line}");
                if lost > 0 {
                    let _ = writeln!(out, "({lost} lines left out: the terminal did not keep up)");
                }
                let _ = out.flush();
                waiting = self.lock();
                waiting.printing = false;
            }
            self.changed.notify_all();
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What is typed, line by line; `Err` holds the length of a line that is too long. Ends with the input.
pub(crate) fn read_lines() -> mpsc::Receiver<Result<String, usize>> {
    let (lines, typed) = mpsc::channel(16);
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some(line)) = read_line(&mut input) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    typed
}

/// Reads a line, of which it keeps no more than [`MAX_LINE`] bytes; `None` at the end.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Result<String, usize>>> {
    let (mut line, mut len) = (Vec::new(), 0);
    loop {
        let read = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        let at_end = read.is_empty();
        len += part.len();
        line.extend_from_slice(&part[..part.len().min(MAX_LINE - line.len())]);
        let taken = part.len() + usize::from(end.is_some());
        input.consume(taken);
        if end.is_some() || at_end {
            break if at_end && len == 0 {
                Ok(None)
            } else if len > MAX_LINE {
                Ok(Some(Err(len)))
            } else {
                Ok(Some(Ok(String::from_utf8_lossy(&line).into_owned())))
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_with_a_line_feed_or_the_input() {
        let mut input = io::BufReader::with_capacity(3, &b"one\n\nth\xFFree"[..]);
        let mut next = || read_line(&mut input).unwrap();
        assert_eq!(next(), Some(Ok("one".to_owned())));
        assert_eq!(next(), Some(Ok(String::new())));
        assert_eq!(next(), Some(Ok("th\u{FFFD}ree".to_owned())));
        assert_eq!(next(), None);
    }

    #[test]
    fn endless_lines_are_not_kept() {
        let text = [vec![b'x'; 3 * MAX_LINE], b"\nnext\n".to_vec()].concat();
        let mut input = &text[..];
        assert_eq!(read_line(&mut input).unwrap(), Some(Err(3 * MAX_LINE)));
        assert_eq!(read_line(&mut input).unwrap(), Some(Ok("next".to_owned())));
    }

    /// A terminal that is held up until the lock is free.
    struct HeldUp(Arc<Mutex<Vec<u8>>>);

    impl Write for HeldUp {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_that_is_held_up_costs_lines_and_nothing_else() {
        let screen = Arc::new(Mutex::new(Vec::new()));
        let held = screen.lock().unwrap();
        let printer = Printer::to(HeldUp(screen.clone()));
        for line in 0..2 * MAX_WAITING {
            printer.print(line.to_string());
        }
        drop(held);
        printer.flush();
        printer.print("after");
        printer.flush();
        let shown = String::from_utf8(screen.lock().unwrap().clone()).unwrap();
        let lost =
            shown.lines().find_map(|line| line.strip_prefix('(')?.split(' ').next()?.parse::<usize>().ok());
        let lines = shown.lines().filter(|line| line.bytes().all(|byte| byte.is_ascii_digit())).count();
        assert_eq!(lost.expect("some are lost") + lines, 2 * MAX_WAITING, "{shown}");
        assert!(shown.contains("\nafter\n"));
    }
}
