//! Each kind of wrong is found, and nothing else is.

use super::*;

fn event(n: u64) -> Committed {
    Committed {
        id: Uuid::from_u128(n.into()),
        kind: "order".to_owned(),
        key: "k".to_owned(),
        n: i64::try_from(n).unwrap(),
        digest: n.to_string(),
        bytes: 10,
        commit_lsn: n * 100,
        owed: true,
        is_text: true,
    }
}

fn message(n: u64) -> Accepted {
    let Committed { id, kind, key, n, digest, commit_lsn, .. } = event(n);
    let (n, commit_lsn) = (Some(n), Some(commit_lsn));
    let (whole, target) = (digest.clone(), "topic".to_owned());
    Accepted { id, target, kind, key, n, digest, commit_lsn, whole }
}

fn evidence(accepted: &[u64]) -> Evidence {
    Evidence {
        committed: (1..=3).map(event).collect(),
        accepted: accepted.iter().map(|n| message(*n)).collect(),
        targets: [("order".to_owned(), "topic".to_owned())].into(),
        limit: 100,
        ..Evidence::default()
    }
}

fn note(confirmed: u64, accepted: usize, letter: i64) -> Note {
    Note { when: "at a kill".to_owned(), confirmed, accepted, letter }
}

fn letter(n: u64, number: i64) -> Letter {
    Letter { id: event(n).id, number, code: Some(REFUSED.to_owned()), redriven: false }
}

#[test]
fn all_in_order_with_repeats_is_right() {
    let told = Evidence { cuts: 1, ..evidence(&[1, 2, 1, 2, 3, 2]) };
    assert_eq!(judge(&told), Verdict { duplicates: 3, ..Verdict::default() });
}

#[test]
fn a_repeat_that_no_cut_answer_and_no_restart_explains_is_found() {
    let numbers: Vec<u64> = (0..12).map(|_| 1).collect();
    let untold = evidence(&numbers);
    assert_eq!(judge(&untold).sent_again.len(), 1);
    assert_eq!(judge(&Evidence { cuts: 2, ..untold }).sent_again, Vec::<String>::new());
    // Each life begins with one of them.
    let starts = vec![4, 8];
    let restarted = Evidence { starts, ..evidence(&numbers) };
    assert_eq!(judge(&restarted).sent_again, Vec::<String>::new());
}

#[test]
fn an_event_that_is_nowhere_is_lost_and_a_dead_letter_is_not() {
    let mut evidence = evidence(&[1, 3]);
    assert_eq!(judge(&evidence).lost.len(), 1);
    evidence.letters = vec![letter(2, 1)];
    assert_eq!(judge(&evidence), Verdict::default());
}

#[test]
fn what_was_not_published_is_owed_to_no_one_and_may_not_be_confirmed_early() {
    let mut evidence = evidence(&[1, 3]);
    evidence.committed[1].owed = false;
    evidence.notes = vec![note(301, 1, 0), note(500, 2, 0)];
    let verdict = judge(&evidence);
    assert_eq!((verdict.lost.len(), verdict.confirmed_early.len()), (0, 1));
}

#[test]
fn a_row_of_the_captured_table_is_accepted_or_kept_or_lost() {
    let mut evidence = evidence(&[1, 2, 3]);
    let mark = |key: &str| Accepted {
        id: Uuid::from_u128(99),
        kind: MARK.to_owned(),
        key: key.to_owned(),
        ..message(1)
    };
    evidence.accepted.push(mark("1"));
    evidence.marks = ["1", "2", "3"].map(str::to_owned).to_vec();
    evidence.marks_kept = vec!["2".to_owned()];
    let lost = vec!["mark 3".to_owned()];
    assert_eq!(judge(&evidence), Verdict { lost, ..Verdict::default() });
    evidence.cuts = 1;
    evidence.accepted.push(Accepted { whole: "other".to_owned(), ..mark("1") });
    assert_eq!(judge(&evidence).changed.len(), 1);
}

#[test]
fn bytes_that_are_no_text_are_a_letter_with_a_cause() {
    let mut evidence = evidence(&[1, 3]);
    evidence.letters = vec![Letter { code: None, ..letter(2, 1) }];
    assert_eq!(judge(&evidence).set_aside.len(), 1);
    evidence.committed[1].is_text = false;
    assert_eq!(judge(&evidence), Verdict::default());
}

#[test]
fn within_a_raised_limit_only_the_broker_sets_aside() {
    let mut evidence = evidence(&[1, 3]);
    evidence.committed[1].bytes = 100;
    evidence.letters = vec![Letter { code: None, ..letter(2, 1) }];
    assert_eq!(judge(&evidence), Verdict::default());
    evidence.within_limit = [event(2).id].into();
    assert_eq!(judge(&evidence).set_aside.len(), 1);
}

#[test]
fn a_first_acceptance_behind_a_later_one_is_out_of_order() {
    assert_eq!(judge(&evidence(&[1, 3, 2])).out_of_order.len(), 1);
    let mut set_aside = evidence(&[1, 3, 2]);
    set_aside.letters = vec![letter(2, 1)];
    assert_eq!(judge(&set_aside).out_of_order, Vec::<String>::new());
}

#[test]
fn another_content_place_or_position_under_the_same_id_is_found() {
    let spoil: [fn(&mut Accepted); 6] = [
        |m| m.digest = "other".to_owned(),
        |m| m.key = "other".to_owned(),
        |m| m.n = None,
        |m| m.commit_lsn = Some(7),
        |m| m.target = "other".to_owned(),
        |m| m.kind = "other".to_owned(),
    ];
    for spoil in spoil {
        let mut evidence = evidence(&[1, 2, 3]);
        spoil(&mut evidence.accepted[1]);
        assert_eq!(judge(&evidence).changed.len(), 1);
    }
    let mut again = evidence(&[1, 2, 3, 2]);
    again.cuts = 1;
    again.accepted[3].whole = "other".to_owned();
    assert_eq!(judge(&again).changed.len(), 1);
}

#[test]
fn a_dead_letter_without_a_cause_is_found() {
    for (code, bytes, wrong) in
        [(Some(REFUSED), 10, 0), (Some("ExpiredToken"), 10, 1), (None, 10, 1), (None, 100, 0)]
    {
        let mut evidence = evidence(&[1, 3]);
        evidence.committed[1].bytes = bytes;
        let code = code.map(str::to_owned);
        evidence.letters = vec![Letter { code, ..letter(2, 1) }];
        assert_eq!(judge(&evidence).set_aside.len(), wrong);
    }
}

#[test]
fn what_was_rolled_back_must_not_be_accepted() {
    assert_eq!(judge(&evidence(&[1, 2, 3, 4])).never_committed.len(), 1);
}

#[test]
fn a_confirmed_position_past_an_event_that_is_not_safe_is_found() {
    // The commit record of number 2 begins at 200: confirmed up to there it is sent again.
    for (noted, wrong) in [
        (note(200, 1, 0), 0),
        (note(201, 1, 0), 1),
        (note(201, 2, 0), 0),
        (note(301, 2, 0), 1),
        (note(100, 0, 0), 0),
        (note(101, 0, 0), 1),
    ] {
        let evidence = Evidence { notes: vec![noted.clone()], ..evidence(&[1, 2, 3]) };
        assert_eq!(judge(&evidence).confirmed_early.len(), wrong, "{noted:?}");
    }
    // A dead letter counts from when it was written.
    for (noted, wrong) in [(note(201, 1, 6), 1), (note(201, 1, 7), 0)] {
        let letters = vec![letter(2, 7)];
        let evidence = Evidence { notes: vec![noted], letters, ..evidence(&[1, 3]) };
        assert_eq!(judge(&evidence).confirmed_early.len(), wrong);
    }
    // And one that is lost was confirmed early, too.
    let evidence = Evidence { notes: vec![note(500, 2, 0)], ..evidence(&[1, 3]) };
    assert_eq!(judge(&evidence).confirmed_early.len(), 1);
}

#[test]
fn a_letter_that_was_redriven_is_owed_again_and_may_come_out_of_order() {
    let mut evidence = evidence(&[1, 3]);
    evidence.letters = vec![Letter { redriven: true, ..letter(2, 7) }];
    evidence.redriven = vec![Redriven { id: event(2).id, letter: 7, commit_lsn: 400 }];
    assert_eq!(judge(&evidence).lost.len(), 1);
    for (noted, wrong) in [(note(400, 2, 7), 0), (note(401, 2, 7), 1), (note(401, 3, 7), 0)] {
        let accepted = [1, 3, 2].map(message).to_vec();
        let evidence = Evidence {
            accepted,
            letters: evidence.letters.clone(),
            redriven: evidence.redriven.clone(),
            notes: vec![noted],
            ..self::evidence(&[])
        };
        let verdict = judge(&evidence);
        assert_eq!(verdict.confirmed_early.len(), wrong);
        assert_eq!((verdict.lost.len(), verdict.out_of_order.len()), (0, 0));
    }
    // Set aside anew.
    evidence.letters.push(letter(2, 9));
    evidence.notes = vec![note(401, 2, 9)];
    assert_eq!(judge(&evidence), Verdict::default());
    evidence.notes = vec![note(401, 2, 8)];
    assert_eq!(judge(&evidence).confirmed_early.len(), 1);
}
