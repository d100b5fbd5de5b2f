//! Yardstick: the TCP echo loop anyone would write by hand on tokio.

use std::io;
use std::net::SocketAddr;

use clap::Parser;
use stormsocket_benchmark::cli::{ServerArgs, TcpPort};
use stormsocket_benchmark::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of one read, as the yardstick is defined.
const BUFFER: usize = 64 << 10;

/// Echoes bytes: read, `write_all`, a buffer of 64 KiB per connection.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: TcpPort,
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    flags.server.runtime()?.block_on(async {
        let listener = serve::listen(SocketAddr::new(flags.server.address, flags.port.port), false)?;
        serve::announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream));
        }
    })
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}
