//! How BIRD is: since when it runs, whether its sessions are up, and a print of
//! its counters, which is another one as soon as a route may be.

use std::time::Duration;

use jiff::civil::DateTime;

use super::{reply::Line, stamped::Stamped};
use crate::sources::names::NodeNames;

/// The answer to `show status`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Status {
    /// When BIRD was started, in its own words.
    boot: String,
    now: String,
    /// It is taking its routes back because it stops.
    pub is_stopping: bool,
    /// It is between two configurations.
    pub is_changing: bool,
    /// It was started with `-R` and waits for its neighbours' routes.
    pub is_recovering: bool,
}

impl Status {
    /// Takes in a line.
    pub fn take(&mut self, line: &Line<'_>) {
        let text = line.text.trim();
        if let Some(time) = text.strip_prefix("Last reboot on ") {
            time.clone_into(&mut self.boot);
        } else if let Some(time) = text.strip_prefix("Current server time is ") {
            time.clone_into(&mut self.now);
        }
        self.is_stopping |= text.starts_with("Shutdown in progress");
        self.is_changing |= text.starts_with("Reconfiguration in progress");
        self.is_recovering |= text.starts_with("Graceful restart recovery in progress");
    }

    /// Which run of BIRD it is: another time, another BIRD.
    #[must_use]
    pub fn run(&self) -> Stamped {
        Stamped::of(&self.boot)
    }

    /// How long BIRD has been running by its own clock; `None` if it shows times
    /// another way than by default (`timeformat base`).
    #[must_use]
    pub fn up_for(&self) -> Option<Duration> {
        let (boot, now): (DateTime, DateTime) = (self.boot.parse().ok()?, self.now.parse().ok()?);
        Duration::try_from(now.duration_since(boot)).ok()
    }
}

/// The answer to `show protocols all`, O(sessions).
#[derive(Clone, Default, Debug)]
pub struct Sessions {
    /// Differs from the one before if a route may have come, gone or changed.
    /// (Not when only the way to a next hop did: that says nothing of pods.)
    pub print: Stamped,
    /// BGP sessions that are not up though they should be.
    pub awaited: usize,
    /// What the sessions are called, by the neighbour's address.
    pub names: NodeNames,
    /// The BGP session that is being read.
    session: Option<String>,
}

/// A protocol's own line.
const PROTOCOL: u16 = 1002;

impl Sessions {
    /// Takes in a line.
    pub fn take(&mut self, line: &Line<'_>) {
        let text = line.text.trim();
        if line.code == PROTOCOL {
            self.print.push(text);
            let mut words = text.split_whitespace();
            let (name, kind) = (words.next(), words.next());
            let (_table, state) = (words.next(), words.next());
            self.session = name.filter(|_| kind == Some("BGP")).map(str::to_owned);
            let is_up = text.contains("Established");
            let is_off = state == Some("down");
            self.awaited += usize::from(kind == Some("BGP") && !is_up && !is_off);
            return;
        }
        if let (Some(session), Some(address)) =
            (&self.session, text.strip_prefix("Neighbor address:"))
            && let Ok(neighbour) = address.trim().parse()
        {
            self.names.entry(neighbour).or_insert_with(|| session.clone());
            return;
        }
        // Timers and exports change all the time, and mean nothing here.
        if ["Routes:", "Import ", "Neighbor graceful restart"].iter().any(|it| text.starts_with(it))
        {
            self.print.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::bird::reply::{Parsed, parse};

    fn lines(text: &str) -> Vec<Line<'_>> {
        let mut code = None;
        text.lines()
            .filter_map(|raw| match parse(raw, code) {
                Parsed::Line(line) => {
                    code = Some(line.code);
                    Some(line)
                }
                _ => None,
            })
            .collect()
    }

    fn status(text: &str) -> Status {
        lines(text).iter().fold(Status::default(), |mut status, line| {
            status.take(line);
            status
        })
    }

    fn sessions(text: &str) -> Sessions {
        lines(text).iter().fold(Sessions::default(), |mut sessions, line| {
            sessions.take(line);
            sessions
        })
    }

    #[test]
    fn the_age_is_by_its_own_clock() {
        let running = status(
            "1000-BIRD 2.0.12\n1011-Router ID is 172.16.36.10\n Hostname is vm\n \
             Current server time is 2026-11-25 23:15:55.026\n \
             Last reboot on 2026-11-25 23:04:45.458\n \
             Last reconfiguration on 2026-11-25 23:04:45.458\n0013 Daemon is up and running\n",
        );
        assert_eq!(running.up_for(), Some(Duration::from_millis(669_568)));
        assert!(!running.is_stopping && !running.is_changing && !running.is_recovering);
        // BIRD 1.6 counts seconds.
        let old = status(
            "1011-Current server time is 2026-11-25 23:15:55\n \
             Last reboot on 2026-11-25 23:15:45\n0013 Daemon is up and running\n",
        );
        assert_eq!(old.up_for(), Some(Duration::from_secs(10)));
        let other = status("1011-Current server time is noon\n Last reboot on 7 o'clock\n0013 \n");
        assert_eq!(other.up_for(), None);
        assert_eq!(other.boot, "7 o'clock");
    }

    #[test]
    fn phases_in_which_the_table_is_not_whole_show() {
        assert!(status("0013 Shutdown in progress\n").is_stopping);
        assert!(status("0013 Reconfiguration in progress\n").is_changing);
        let recovering = "0024-Graceful restart recovery in progress\n   Waiting for 2 channels to \
                          recover\n   Wait timer is 3.1/240\n0013 Daemon is up and running\n";
        assert!(status(recovering).is_recovering);
    }

    const PROTOCOLS: &str = "\
2002-Name       Proto      Table      State  Since         Info
1002-static1    Static     master4    up     21:04:45.458  
1006-  Channel ipv4
     Routes:         1 imported, 0 exported, 1 preferred
1002-m1         BGP        ---        up     23:15:15.863  Established   
1006-  BGP state:          Established
     Neighbor address: 172.16.35.4
     Hold timer:       188.258/240
     Routes:         2 imported, 1 exported, 2 preferred
       Import updates:              2          0          0          0          2
       Import withdraws:            0          0        ---          0          0
       Export updates:              5          4          0        ---          1
1002-m2         BGP        ---        start  21:04:49.802  Active        Socket: No route to host
1006-    Neighbor address: 172.16.34.7
1002-m3         BGP        ---        down   21:04:49.802  
1006-    Neighbor address: fd00::7
1002-again      BGP        ---        start  21:04:49.802  Active
1006-    Neighbor address: 172.16.35.4
0000 
";

    #[test]
    fn sessions_that_are_not_up_are_awaited_unless_they_are_switched_off() {
        assert_eq!(sessions(PROTOCOLS).awaited, 2);
    }

    #[test]
    fn neighbours_are_called_as_their_sessions() {
        let expected: NodeNames = [
            ([172, 16, 35, 4].into(), "m1".to_owned()),
            ([172, 16, 34, 7].into(), "m2".to_owned()),
        ]
        .into();
        assert_eq!(sessions(PROTOCOLS).names, expected);
    }

    #[test]
    fn a_route_makes_another_print_and_a_timer_does_not() {
        let before = sessions(PROTOCOLS);
        let timer = PROTOCOLS.replace("188.258", "187.258").replace("5          4", "6          5");
        // BIRD reads two clocks for each time it shows.
        let clock = PROTOCOLS.replace("23:15:15.863", "23:15:15.862");
        for same in [timer, clock] {
            assert!(sessions(&same).print.is_same(&before.print), "{same}");
        }
        for (old, new) in [
            ("withdraws:            0", "withdraws:            1"),
            ("updates:              2          0", "updates:              3          0"),
            ("2 preferred", "1 preferred"),
            ("23:15:15.863", "23:16:00.000"),
        ] {
            let other = sessions(&PROTOCOLS.replacen(old, new, 1));
            assert!(!other.print.is_same(&before.print), "{new}");
        }
    }
}
