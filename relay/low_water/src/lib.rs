//! How many bytes must have come before a socket counts as readable.
//!
//! A crate of its own because it holds the only `unsafe` call of the workspace: neither the
//! standard library nor socket2, nix or rustix sets `SO_RCVLOWAT`.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Has the kernel wake whoever waits for the socket only once `bytes` have come; 1 is the
/// usual. A read that is made before takes what is there. Lowered again, the kernel looks at
/// once whether there is enough (Linux, socket(7) and `tcp_set_rcvlowat`).
///
/// # Errors
/// When the kernel refuses it; a socket that is not TCP may take it and not heed it.
pub fn set(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&bytes)).map_err(io::Error::other)?;
    let socket = socket.as_fd().as_raw_fd();
    #[expect(unsafe_code, reason = "there is no safe way to set it")]
    // SAFETY: the descriptor is borrowed, so it is open; the pointer is to a c_int that lives
    // through the call, and the length is that of a c_int.
    let done = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::net::TcpListener;
    use tokio::net::TcpStream;

    /// Only for who waits for readiness: a blocking read that has taken a part is not woken for
    /// the rest (Linux's `tcp_data_ready` looks at what is unread alone).
    #[tokio::test]
    async fn who_waits_is_woken_for_as_much() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let reader = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        let (mut writer, _) = server.accept().unwrap();
        writer.set_nodelay(true).unwrap();
        set(&reader, 1000).unwrap();
        let writing = std::thread::spawn(move || {
            for _ in 0..10 {
                writer.write_all(&[7; 100]).unwrap();
                std::thread::yield_now();
            }
            writer
        });
        let mut buffer = [0; 5000];
        reader.readable().await.unwrap();
        assert_eq!(reader.try_read(&mut buffer).unwrap(), 1000);
        let mut writer = writing.join().unwrap();
        // Until the next event the runtime takes the socket for readable.
        assert!(reader.try_read(&mut buffer).is_err());
        set(&reader, 1).unwrap();
        writer.write_all(b"x").unwrap();
        reader.readable().await.unwrap();
        assert_eq!(reader.try_read(&mut buffer).unwrap(), 1);
    }

    #[test]
    fn what_is_no_socket_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(set(&file, 1).is_err());
    }
}
