use super::*;

fn cpus(numbers: &[usize]) -> Cpus {
    Cpus(numbers.iter().copied().collect())
}

fn eth0() -> Queue {
    Queue::new("eth0", 0)
}

/// A host of four CPUs with one NIC of one queue.
fn seen(mask: &[usize], heat: Heat) -> Seen {
    Seen {
        cpus: cpus(&[0, 1, 2, 3]),
        heat,
        queues: BTreeMap::from([(eth0(), cpus(mask))]),
        underlay: BTreeSet::from([eth0()]),
    }
}

fn wanted(masks: &Masks) -> Vec<(Queue, Cpus)> {
    masks.wanted.clone().into_iter().collect()
}

/// Decides and lets the queues become what was decided, at two looks.
fn settle(setting: Spread, seen: &mut Seen, memory: &mut Spreading) -> Masks {
    let mut masks = Masks::default();
    for _ in 0..2 {
        masks = decide(setting, seen, memory);
        seen.queues.extend(masks.wanted.clone());
    }
    masks
}

/// A daemon is killed after it has written its memory and before, or after, a queue.
#[test]
fn killed_at_any_step_it_finds_its_own_masks() {
    let (mut seen, mut memory) = (seen(&[], Heat::Neither), Spreading::default());
    let usable: [&[usize]; 4] = [&[0, 1], &[0, 1, 2, 3], &[1, 2], &[0, 3]];
    for step in 0..64_usize {
        seen.cpus = cpus(usable[step / 3 % 4]);
        let setting = if step % 7 == 6 { Spread::Off } else { Spread::Rps };
        let masks = decide(setting, &seen, &mut memory);
        assert!(masks.foreign.is_empty(), "step {step}");
        if step % 2 == 0 {
            seen.queues.extend(masks.wanted);
        }
    }
    settle(Spread::Off, &mut seen, &mut memory);
    assert_eq!(seen.queues[&eth0()], cpus(&[]));
}

#[test]
fn auto_acts_while_a_cpu_has_no_time_left_and_takes_it_back() {
    let (mut seen, mut memory) = (seen(&[], Heat::Neither), Spreading::default());
    let steps: [(Heat, &[usize]); 7] = [
        (Heat::Neither, &[]),
        (Heat::Calm, &[]),
        // The hot one keeps the driver's work.
        (Heat::Hot(3), &[0, 1, 2]),
        (Heat::Neither, &[0, 1, 2]),
        // What is spread may be hot elsewhere; moving it would reorder packets.
        (Heat::Hot(1), &[0, 1, 2]),
        (Heat::Calm, &[]),
        (Heat::Neither, &[]),
    ];
    for (heat, expected) in steps {
        seen.heat = heat;
        let masks = settle(Spread::Auto, &mut seen, &mut memory);
        assert_eq!(seen.queues[&eth0()], cpus(expected), "{heat:?}");
        assert!(masks.foreign.is_empty());
    }
    assert_eq!(memory, Spreading::default());
}

#[test]
fn deciding_again_changes_nothing() {
    for setting in [Spread::Off, Spread::Rps, Spread::Auto] {
        for heat in [Heat::Neither, Heat::Hot(0), Heat::Calm] {
            for mask in [&[][..], &[1], &[0, 1, 2, 3]] {
                let (mut seen, mut memory) = (seen(mask, heat), Spreading::default());
                settle(setting, &mut seen, &mut memory);
                // After a restart the memory is all there is.
                let (before, queues) = (memory.clone(), seen.queues.clone());
                settle(setting, &mut seen, &mut memory);
                assert_eq!((&memory, &seen.queues), (&before, &queues), "{setting:?} {heat:?}");
            }
        }
    }
}

#[test]
fn masks_of_others_stay() {
    // There before.
    let mut memory = Spreading::default();
    let masks = decide(Spread::Rps, &seen(&[1], Heat::Neither), &mut memory);
    assert_eq!((wanted(&masks), masks.foreign), (vec![], BTreeSet::from([eth0()])));
    // What they set is what we would.
    let masks = decide(Spread::Rps, &seen(&[0, 1, 2, 3], Heat::Neither), &mut memory);
    assert_eq!(masks, Masks::default());
    assert!(memory.queues.is_empty(), "not ours to take back");
    // Changed while it was ours.
    let (mut seen, mut memory) = (seen(&[], Heat::Neither), Spreading::default());
    settle(Spread::Rps, &mut seen, &mut memory);
    seen.queues.insert(eth0(), cpus(&[2]));
    let masks = settle(Spread::Rps, &mut seen, &mut memory);
    assert_eq!((wanted(&masks), masks.foreign), (vec![], BTreeSet::from([eth0()])));
    let masks = settle(Spread::Off, &mut seen, &mut memory);
    assert_eq!((wanted(&masks), seen.queues[&eth0()].clone()), (vec![], cpus(&[2])));
}

#[test]
fn a_reset_queue_is_set_again() {
    // The driver makes its queues anew (`ethtool -L`, a new MTU).
    let (mut seen, mut memory) = (seen(&[], Heat::Neither), Spreading::default());
    settle(Spread::Rps, &mut seen, &mut memory);
    seen.queues.insert(eth0(), cpus(&[]));
    settle(Spread::Rps, &mut seen, &mut memory);
    assert_eq!(seen.queues[&eth0()], cpus(&[0, 1, 2, 3]));
}

#[test]
fn queues_come_go_and_leave_the_underlay() {
    let (mut seen, mut memory) = (seen(&[], Heat::Neither), Spreading::default());
    let second = Queue::new("eth0", 1);
    seen.queues.insert(second.clone(), cpus(&[]));
    seen.underlay.insert(second.clone());
    settle(Spread::Rps, &mut seen, &mut memory);
    assert_eq!(memory.queues.len(), 2);
    seen.queues.remove(&second);
    settle(Spread::Rps, &mut seen, &mut memory);
    assert_eq!(memory.queues.len(), 1);
    seen.underlay.clear();
    settle(Spread::Rps, &mut seen, &mut memory);
    assert_eq!(seen.queues[&eth0()], cpus(&[]));
    settle(Spread::Rps, &mut seen, &mut memory);
    assert!(memory.queues.is_empty());
}

#[test]
fn cpus_come_and_go() {
    let (mut seen, mut memory) = (seen(&[], Heat::Hot(0)), Spreading::default());
    settle(Spread::Auto, &mut seen, &mut memory);
    assert_eq!(seen.queues[&eth0()], cpus(&[1, 2, 3]));
    (seen.cpus, seen.heat) = (cpus(&[0, 1, 2]), Heat::Neither);
    settle(Spread::Auto, &mut seen, &mut memory);
    assert_eq!(seen.queues[&eth0()], cpus(&[1, 2]));
    seen.cpus = cpus(&[0, 1]);
    settle(Spread::Auto, &mut seen, &mut memory);
    assert_eq!(seen.queues[&eth0()], cpus(&[]), "over one CPU nothing is spread");
    for alone in [&[0][..], &[]] {
        seen.cpus = cpus(alone);
        let masks = decide(Spread::Rps, &seen, &mut Spreading::default());
        assert_eq!(masks, Masks::default());
    }
}

#[test]
fn with_two_cpus_both_help() {
    let mut seen = seen(&[], Heat::Hot(1));
    seen.cpus = cpus(&[0, 1]);
    settle(Spread::Auto, &mut seen, &mut Spreading::default());
    assert_eq!(seen.queues[&eth0()], cpus(&[0, 1]));
}

#[test]
fn what_is_remembered_survives_as_text() {
    let mut memory = Spreading::default();
    let _ = decide(Spread::Rps, &seen(&[], Heat::Neither), &mut memory);
    let text = serde_json::to_string(&memory).unwrap();
    assert_eq!(text, r#"{"cpus":"0000000f","queues":{"eth0 rx-0":"0000000f"}}"#);
    assert_eq!(serde_json::from_str::<Spreading>(&text).unwrap(), memory);
}
