//! Yardstick: the TLS echo loop anyone would write by hand on tokio and tokio-rustls.

use std::net::SocketAddr;

use clap::Parser;
use stormsocket::BoxError;
use stormsocket_benchmark::cli::{ServerArgs, TcpPort};
use stormsocket_benchmark::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// Bytes of one read, as the yardstick is defined.
const BUFFER: usize = 64 << 10;

/// Echoes bytes over TLS: read, `write_all`, `flush`, a buffer of 64 KiB per connection.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    server: ServerArgs,

    #[command(flatten)]
    port: TcpPort,
}

fn main() -> Result<(), BoxError> {
    let flags = Flags::parse();
    let acceptor = serve::tls_acceptor()?;
    flags.server.runtime()?.block_on(async {
        let listener = serve::listen(SocketAddr::new(flags.server.address, flags.port.port), false)?;
        serve::announce(listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(acceptor.clone(), stream));
        }
    })
}

async fn echo(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(stream).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            read => {
                stream.write_all(&buffer[..read]).await?;
                stream.flush().await?;
            }
        }
    }
}
