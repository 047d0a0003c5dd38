//! Where the problems of `tunless status` are in `tunless doctor`.

use super::{Check, Verdict};
use crate::daemon::report::Code;

/// Returns the check that a problem belongs to, and its verdict. What loses packets, or keeps
/// changes from being made, is a failure; the rest is a warning.
#[must_use]
pub const fn place(code: Code) -> (Check, Verdict) {
    use Verdict::{Fail, Warn};
    match code {
        Code::PinsLost => (Check::Pins, Fail),
        Code::ActiveUnreadable => (Check::Pins, Warn),
        Code::ProgramMissing | Code::IpipElsewhere => (Check::Programs, Fail),
        Code::PodProgramMissing => (Check::Programs, Warn),
        Code::Starting
        | Code::ReconcileFailed
        | Code::DaemonStuck
        | Code::StartFailed
        | Code::ApplyFailed => (Check::Daemon, Fail),
        Code::TryOver
        | Code::TryRuns
        | Code::ReportUnreadable
        | Code::DaemonStopped
        | Code::Http => (Check::Daemon, Warn),
        Code::ConfigRefused | Code::WorkloadInterface => (Check::Configuration, Warn),
        Code::NoNodeAddress | Code::OwnNodeAddress => (Check::Node, Fail),
        Code::OwnNodeMissing => (Check::Node, Warn),
        Code::TunnelDeviceMissing => (Check::Tunnel, Fail),
        Code::TunnelAddressDiffers
        | Code::TunnelAddressForeign
        | Code::NoTunnelAddress
        | Code::Mode => (Check::Tunnel, Warn),
        Code::SourceStale | Code::SourceWaiting | Code::SourceObject => (Check::Sources, Warn),
        Code::AllUnreachable | Code::Unreachable | Code::ForeignRoute => (Check::Routes, Fail),
        Code::Claim | Code::NoRoutes | Code::LeftToTunl0 => (Check::Routes, Warn),
        Code::ForwardingOff | Code::PodForwardingOff | Code::UnderlayForwardingOff => {
            (Check::Forwarding, Fail)
        }
        Code::PathMtu | Code::Mtu => (Check::Mtu, Warn),
        Code::MarkTable | Code::OuterRules | Code::Flowtable => (Check::Netfilter, Warn),
        Code::Sysctl => (Check::Sysctls, Warn),
        Code::FastpathWithheld
        | Code::ServicesWithheld
        | Code::UnansweredWithheld
        | Code::LimitsUnreadable
        | Code::PodUnleased => (Check::Leases, Warn),
        Code::XdpHandover | Code::XdpMissing | Code::XdpUnsupported => (Check::Xdp, Warn),
        Code::HotCpu | Code::ReceiveQueues => (Check::Cpus, Warn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::report::Level;

    /// What takes the node down fails, and what only informs does not.
    #[test]
    fn the_level_and_the_verdict_agree() {
        for code in Code::ALL {
            let (_, verdict) = place(*code);
            match code.level() {
                Level::Down => assert_eq!(verdict, Verdict::Fail, "{code:?}"),
                Level::Degraded => {}
                Level::Info => assert_eq!(verdict, Verdict::Warn, "{code:?}"),
            }
        }
    }
}
