//! UDP that is cut into segments below the tunnel, by the NIC or for it. The kernel that gets a
//! datagram for a closed port verifies its checksum before it answers (`net/ipv4/udp.c`,
//! `__udp4_lib_rcv`), so each answer proves a segment with its checksums.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{net::UdpSocket, time::timeout};

use super::{
    super::{Check, Row, Verdict},
    line::TRIES,
};

/// Bytes of each segment.
const SEGMENT: i32 = 1_000;
/// Segments of one send.
const SEGMENTS: usize = 4;

/// What came of datagrams of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// They were answered.
    Answered,
    /// They were not.
    Unanswered,
    /// This host's kernel did not send them: why.
    Unsent(String),
}

/// Sends from our tunnel address to a pod, one small datagram and then a train, and waits so long for
/// each answer.
pub async fn row(tunnel: Ipv4Addr, pod: Ipv4Addr, link: &str, wait: Duration) -> Row {
    let small = send(tunnel, pod, None, wait).await;
    let train = match small {
        Outcome::Answered => send(tunnel, pod, Some(SEGMENT), wait).await,
        _ => Outcome::Unanswered,
    };
    judge(pod, link, &small, &train)
}

async fn send(tunnel: Ipv4Addr, pod: Ipv4Addr, segment: Option<i32>, wait: Duration) -> Outcome {
    let ask = async || -> io::Result<bool> {
        let socket = UdpSocket::bind(SocketAddrV4::new(tunnel, 0)).await?;
        // As of traceroute: nothing listens there.
        let port = fastrand::u16(33_434..33_534);
        socket.connect(SocketAddrV4::new(pod, port)).await?;
        let payload = match segment {
            None => vec![0x74; 64],
            Some(segment) => {
                setsockopt(&socket, sockopt::UdpGsoSegment, &segment)?;
                vec![0x74; segment as usize * SEGMENTS]
            }
        };
        for _ in 0..TRIES {
            match socket.send(&payload).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
                sent => drop(sent?),
            }
            match timeout(wait, socket.recv(&mut [0; 64])).await {
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Ok(true);
                }
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Ok(false)
    };
    match ask().await {
        Ok(true) => Outcome::Answered,
        Ok(false) => Outcome::Unanswered,
        Err(error) => Outcome::Unsent(error.to_string()),
    }
}

fn judge(pod: Ipv4Addr, link: &str, small: &Outcome, train: &Outcome) -> Row {
    let row = |verdict, what| Row::new(Check::PeerOffloads, verdict, pod.to_string(), what);
    match (small, train) {
        (Outcome::Unsent(why), _) | (Outcome::Answered, Outcome::Unsent(why)) => {
            row(Verdict::Skip, format!("not tested: this kernel does not send it: {why}"))
        }
        (Outcome::Unanswered, _) => row(
            Verdict::Skip,
            "not tested: it answers no UDP to a closed port (a policy may drop it)".to_owned(),
        ),
        (Outcome::Answered, Outcome::Answered) => row(
            Verdict::Pass,
            format!("a train of {SEGMENTS} segments of {SEGMENT} bytes arrives with right checksums"),
        ),
        (Outcome::Answered, Outcome::Unanswered) => row(
            Verdict::Fail,
            format!(
                "small datagrams arrive, and of a train that is cut into segments no one does: {link} or \
                 a NIC behind it cuts encapsulated packets wrongly"
            ),
        )
        .remedy(format!(
            "`ethtool -K {link} tx-ipxip4-segmentation off tx-udp-segmentation off tso off`, then try \
             again; a firmware or driver update may repair it"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_is_compared_with_a_datagram() {
        use Outcome::{Answered, Unanswered};
        let unsent = Outcome::Unsent("EIO".into());
        for (small, train, verdict) in [
            (Answered, Answered, Verdict::Pass),
            (Answered, Unanswered, Verdict::Fail),
            (Unanswered, Unanswered, Verdict::Skip),
            (Answered, unsent.clone(), Verdict::Skip),
            (unsent, Unanswered, Verdict::Skip),
        ] {
            let row = judge(Ipv4Addr::new(10, 20, 42, 31), "eth0", &small, &train);
            assert_eq!(row.verdict, verdict, "{row:?}");
        }
    }
}
