//! What a dying kernel printed: found in the console's text, and whose it is.
//!
//! The emulator kills a guest now and then, in the middle of code that has run
//! on real machines for decades. Such a boot says nothing about tunless. But a
//! kernel that dies in what our programs do to packets, must not pass for one.

/// How a report of the kernel's begins.
const FATAL: [&str; 5] = [
    "BUG: ",
    "Kernel panic - not syncing",
    "kernel BUG at ",
    // Whatever the exception, since 2.6: `int3: 0000 [#1]`, `Oops: 0000 [#1]`.
    " [#1]",
    "Oops: ",
];

/// And one that it survives.
const WARNING: &str = "WARNING: CPU:";

const END_OF_TRACE: &str = "---[ end trace";

/// More would hide the first.
const LINES: usize = 150;

/// Functions and programs that are ours wherever they show.
const OURS: [&str; 4] = [
    // Our programs, and the kernel's helpers for them.
    "bpf_",
    // What makes them run.
    "tcx_run",
    "do_xdp_",
    // The daemon or the command line; not the runner, `tunless-vm`.
    "Comm: tunless ",
];

/// Where packets go: ours once our programs have handled any.
const PACKETS: [&str; 10] = [
    "__netif_receive_skb",
    "dev_hard_start_xmit",
    "ip_rcv",
    "ip_forward",
    "ip_output",
    "kfree_skb",
    "nf_hook",
    "skb_release",
    "skb_segment",
    "tcp_v4_",
];

/// A report found in the console's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The kernel did not survive it.
    pub fatal: bool,
    /// From its first line on.
    pub text: String,
}

impl Report {
    /// The first fatal report of a console, else the first warning.
    pub fn find(console: &str) -> Option<Self> {
        let lines: Vec<&str> = console.lines().collect();
        let position = |is: &dyn Fn(&str) -> bool| lines.iter().position(|line| is(line));
        let fatal = position(&|line| FATAL.iter().any(|start| line.contains(start)));
        let start = fatal.or_else(|| position(&|line| line.contains(WARNING)))?;
        let rest = &lines[start..lines.len().min(start + LINES)];
        // After a warning the kernel goes on to talk of other things.
        let trace = rest.iter().position(|line| line.contains(END_OF_TRACE));
        let end = trace.filter(|_| fatal.is_none()).map_or(rest.len(), |last| last + 1);
        Some(Self { fatal: fatal.is_some(), text: rest[..end].join("\n") })
    }

    /// Whether it may be our doing; `loaded`: our programs were in the kernel.
    pub fn is_ours(&self, loaded: bool) -> bool {
        // A breakpoint that the kernel put into its own code, and took out again
        // before the emulator noticed. No program of ours can have one.
        if self.headline().contains("int3: ") {
            return false;
        }
        let calls: Vec<&str> = self.text.lines().filter(|line| !is_stale(line)).collect();
        let shows =
            |names: &[&str]| calls.iter().any(|line| names.iter().any(|name| line.contains(name)));
        shows(&OURS) || (loaded && shows(&PACKETS))
    }

    /// Its first line, without the time.
    pub fn headline(&self) -> &str {
        let line = self.text.lines().next().unwrap_or_default().trim();
        line.split_once("] ").map_or(line, |(_, text)| text)
    }
}

/// What earlier calls left on the stack; not who called whom.
fn is_stale(line: &str) -> bool {
    line.split_once(']').map_or(line, |(_, text)| text).trim_start().starts_with("? ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSFS: &str = "\
[    3.1] veth0: up
[    3.2] BUG: unable to handle page fault for address: ffff88
[    3.2] Oops: 0000 [#1] PREEMPT SMP NOPTI
[    3.2] CPU: 1 PID: 77 Comm: ip Not tainted 6.12.117-cloud-amd64 #1
[    3.2] Call Trace:
[    3.2]  sysfs_add_file_mode_ns+0x1
[    3.2]  veth_newlink+0x2
[    3.2] Kernel panic - not syncing: Fatal exception
";

    fn report(frames: &str) -> Report {
        let console = format!(
            "[1.0] up\n[2.0] general protection fault: 0000 [#1] SMP\nCall Trace:\n{frames}\n"
        );
        Report::find(&console).expect("a report")
    }

    #[test]
    fn a_report_is_found_from_its_first_line_on() {
        let found = Report::find(SYSFS).unwrap();
        assert!(found.fatal);
        assert!(found.text.starts_with("[    3.2] BUG: "), "{}", found.text);
        assert!(found.text.ends_with("Fatal exception"));
        assert_eq!(found.headline(), "BUG: unable to handle page fault for address: ffff88");
    }

    #[test]
    fn a_fatal_report_counts_more_than_a_warning_before_it() {
        let warning = "[1.0] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 y+0x1\n";
        assert!(!Report::find(warning).unwrap().fatal);
        assert!(Report::find(&format!("{warning}{SYSFS}")).unwrap().fatal);
        assert_eq!(Report::find("[0.1] Linux version 6.12\n[0.2] BUGS wanted\n"), None);
    }

    #[test]
    fn what_dies_elsewhere_is_not_ours() {
        for loaded in [false, true] {
            assert!(!Report::find(SYSFS).unwrap().is_ours(loaded));
            assert!(!report(" prepare_creds+0x1\n copy_process+0x2").is_ours(loaded));
        }
    }

    #[test]
    fn what_a_stack_has_left_over_is_nobodys() {
        assert!(!report("[2.0]  ? bpf_skb_adjust_room+0x3\n ? tcx_run+0x1").is_ours(true));
    }

    #[test]
    fn a_warning_ends_with_its_trace() {
        let console = "[1.0] WARNING: CPU: 0 PID: 1 at x\n[1.0]  y+0x1\n\
                       [1.0] ---[ end trace 0000 ]---\n[9.0] bpf_ is mentioned\n";
        let found = Report::find(console).unwrap();
        assert!(found.text.ends_with("---[ end trace 0000 ]---"));
        assert!(!found.is_ours(true));
    }

    #[test]
    fn our_programs_and_processes_are_ours() {
        for frame in [
            " bpf_prog_6deef7357e7b4530_encap_pod+0x12",
            " bpf_skb_adjust_room+0x3",
            " tcx_run+0x1",
            "CPU: 0 PID: 99 Comm: tunless Not tainted",
        ] {
            assert!(report(frame).is_ours(false), "{frame}");
        }
        assert!(!report("CPU: 0 PID: 99 Comm: tunless-vm Not tainted").is_ours(true));
    }

    #[test]
    fn a_breakpoint_is_the_emulators_wherever_it_is() {
        for headline in ["int3: 0000 [#1] PREEMPT SMP", "Oops: int3: 0000 [#1] PREEMPT SMP"] {
            let console = format!("[17.4] {headline}\n[17.4] RIP: __netif_receive_skb_core\n");
            let found = Report::find(&console).unwrap();
            assert!(found.fatal && !found.is_ours(true), "{headline}");
        }
    }

    #[test]
    fn the_way_of_packets_is_ours_once_programs_are_loaded() {
        let found = report(" kfree_skb_reason+0x1\n net_rx_action+0x1");
        assert!(!found.is_ours(false));
        assert!(found.is_ours(true));
    }
}
