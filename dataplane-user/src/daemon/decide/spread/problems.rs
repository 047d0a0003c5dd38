//! What is wrong with how received packets are spread.

use super::Masks;
use crate::{
    config::Spread,
    daemon::{
        decide::Decider,
        observe::cores::Hot,
        report::{Code, Problem},
    },
    kernel::receive_queues::Cpus,
};

/// What is wrong with how received packets are spread. `hot`: the CPU that has no time left.
pub fn problems(decider: &Decider, hot: Option<Hot>) -> impl Iterator<Item = Problem> {
    let cpus = decider.memory().spreading.cpus.as_ref();
    let hot = hot.map(|hot| hot_cpu(hot, cpus));
    hot.into_iter().chain(not_spread(decider.file().config.underlay.spread, decider.masks()))
}

/// One CPU handles most encapsulated packets and has no time left. `spread_over`: the CPUs that
/// received packets are spread over.
fn hot_cpu(hot: Hot, spread_over: Option<&Cpus>) -> Problem {
    let Hot { cpu, has_dropped } = hot;
    let drops = if has_dropped { "; it drops packets" } else { "" };
    let what = format!(
        "CPU {cpu} decapsulates most packets and spends over 90 % of its time on received ones, \
         while other CPUs have time{drops}"
    );
    let remedy = match spread_over {
        None => {
            "let the kernel spread received packets over the CPUs by their inner headers \
             (`underlay.spread: auto`), or the NIC, if it can"
        }
        Some(_) => {
            "received packets are spread already; what is left is one flow, or the driver's own \
             work: a NIC that hashes inner headers over several queues takes that, too"
        }
    };
    Problem::new(Code::HotCpu, format!("cpu {cpu}"), what).remedy(remedy)
}

/// What keeps received packets from being spread as the file has it.
fn not_spread(setting: Spread, masks: &Masks) -> Option<Problem> {
    let problem = |what| Problem::new(Code::ReceiveQueues, "underlay.spread", what);
    let setting = setting.as_str();
    if masks.has_no_queue {
        let what = format!(
            "`underlay.spread: {setting}` has no effect: no link of the underlay has a receive \
             queue with RPS"
        );
        return Some(problem(what).remedy("use a kernel with CONFIG_RPS, or set it to off"));
    }
    let foreign: Vec<String> = masks.foreign.iter().map(ToString::to_string).collect();
    let named = (!foreign.is_empty()).then(|| foreign.join(", "))?;
    let what = format!("RPS of {named} was set by other software, and stays as it is");
    let remedy = "let one of both set it: remove it there (udev, tuned, irqbalance, a script), or \
                  set underlay.spread to off";
    Some(problem(what).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::receive_queues::Queue;

    #[test]
    fn a_hot_cpu_is_named_with_what_it_does_and_what_to_do() {
        let problem = hot_cpu(Hot { cpu: 3, has_dropped: false }, None);
        assert_eq!((problem.code, problem.subject.as_str()), (Code::HotCpu, "cpu 3"));
        assert!(problem.what.starts_with("CPU 3 decapsulates most packets"), "{}", problem.what);
        assert!(problem.remedy.is_some_and(|remedy| remedy.contains("underlay.spread: auto")));
        let dropping = hot_cpu(Hot { cpu: 3, has_dropped: true }, None);
        assert!(dropping.what.ends_with("; it drops packets"), "{}", dropping.what);
    }

    #[test]
    fn what_keeps_packets_from_being_spread_is_named() {
        assert!(not_spread(Spread::Rps, &Masks::default()).is_none());
        let foreign = [Queue::new("eth0", 0), Queue::new("eth0", 1)].into();
        let found = not_spread(Spread::Rps, &Masks { foreign, ..Masks::default() });
        let found = found.expect("others have set them");
        assert!(found.what.starts_with("RPS of eth0 rx-0, eth0 rx-1 was set"), "{}", found.what);
        let none = Masks { has_no_queue: true, ..Masks::default() };
        let found = not_spread(Spread::Auto, &none).expect("there are no queues");
        assert!(found.what.contains("`underlay.spread: auto` has no effect"), "{}", found.what);
        let spread = hot_cpu(Hot { cpu: 3, has_dropped: false }, Some(&Cpus([0, 1].into())));
        assert!(spread.remedy.is_some_and(|remedy| remedy.contains("spread already")));
    }
}
