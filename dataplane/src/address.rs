//! Where to listen and where to connect: TCP or a unix socket.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// `host:port`, `[ipv6]:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl Address {
    /// Parses; the error says what is wrong with `text`.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is gRPC's other spelling.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(format!("address {text:?} has no path after \"unix:\""));
            }
            return Ok(Address::Unix(PathBuf::from(path)));
        }
        let good = text.rsplit_once(':').is_some_and(|(host, port)| {
            let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
            !host.is_empty() && !bare_ipv6 && port.parse::<u16>().is_ok()
        });
        if good {
            Ok(Address::Tcp(text.to_owned()))
        } else {
            Err(format!("address {text:?} must be host:port, [ipv6]:port or unix:/path"))
        }
    }

    /// The `:authority` of requests sent there.
    pub fn authority(&self) -> &str {
        match self {
            Address::Tcp(text) => text,
            Address::Unix(_) => "localhost",
        }
    }

    pub async fn connect(&self) -> io::Result<Io> {
        match self {
            Address::Tcp(text) => TcpStream::connect(text).await.and_then(Io::tcp),
            Address::Unix(path) => UnixStream::connect(path).await.map(Io::Unix),
        }
    }

    /// Binds and listens; blocks for a name look-up at most.
    pub fn listen(&self) -> io::Result<Listening> {
        match self {
            Address::Tcp(text) => {
                let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
                for address in text.to_socket_addrs()? {
                    match listen_tcp(address) {
                        Ok(listener) => return Ok(Listening::Tcp(listener)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => {
                let stale = std::fs::symlink_metadata(path).is_ok_and(|data| data.file_type().is_socket())
                    && std::os::unix::net::UnixStream::connect(path).is_err();
                if stale {
                    std::fs::remove_file(path)?;
                }
                let listener = std::os::unix::net::UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Listening::Unix(listener, path.clone()))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(text) => f.write_str(text),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A bound listener, not yet part of any event loop.
pub enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, PathBuf),
}

impl Listening {
    /// The bound address, with the port that was picked.
    pub fn address(&self) -> io::Result<String> {
        match self {
            Listening::Tcp(listener) => listener.local_addr().map(|address| address.to_string()),
            Listening::Unix(_, path) => Ok(format!("unix:{}", path.display())),
        }
    }
}

/// A connection's bytes. TLS is to be one more kind.
pub enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Io {
    /// A TCP connection that does not wait for more to send, and notices in two minutes that the other machine is gone.
    pub fn tcp(stream: TcpStream) -> io::Result<Io> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(20))
            .with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Io::Tcp(stream))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // The kernel takes a single part faster by its shorter way, and most writes have no more.
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        match self.get_mut() {
            Io::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Io::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_addresses_are_refused_with_the_address_in_the_message() {
        for bad in ["", "host", "host:", "host:70000", ":80", "::1:80", "unix:"] {
            assert!(Address::parse(bad).unwrap_err().contains(&format!("{bad:?}")), "{bad}");
        }
        for good in ["localhost:0", "127.0.0.1:80", "[::1]:80", "unix:/tmp/x", "unix:///tmp/x"] {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
    }
}
