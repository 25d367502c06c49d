"""Every untrue read of the catalogue is held, by the right rule, and nothing around it is."""

import pytest

from headend.intervals.findings import RULES
from headend.intervals.quality import TruthChecks, Verdict
from headend.model import Quality
from tests.headend.intervals.catalogue import Entry, Scene, entries

CATALOGUE = entries()
CHECKS = TruthChecks()


def told(scene: Scene, text: str, *, true: bool = False) -> Verdict:
    read = scene.next_read(text)
    others = [] if true else scene.others(read)
    verdict = CHECKS.examine_round([(read, scene.context(true=true)), *others])[0]
    scene.history = verdict.history
    return verdict


def with_history(entry: Entry) -> Scene:
    scene = Scene(entry)
    for amount in entry.amounts_before():
        verdict = told(scene, str(amount), true=True)
        assert verdict.findings == (), f"before anything happened: {verdict.findings}"
    return scene


@pytest.mark.parametrize("entry", CATALOGUE, ids=[entry.report for entry in CATALOGUE])
def test_an_untrue_read_is_held_by_its_rule_and_the_true_one_after_it_is_not(entry: Entry) -> None:
    scene = with_history(entry)
    baseline = scene.history
    assert baseline is not None
    rules, news = [], 0
    for place, text in enumerate(entry.untrue * entry.repeat):
        scene.advance_label()
        verdict = told(scene, text)
        if place < entry.clean:
            assert verdict.findings == ()
            baseline = scene.history
            continue
        assert verdict.findings, f"{text} passed"
        finding = verdict.findings[0]
        rules.append(finding.rule)
        news += verdict.is_news
        assert finding.rule in RULES
        assert finding.is_held is entry.held, finding
        assert (Quality.SUSPECT in verdict.read.quality) is entry.held
        if entry.held:
            assert finding.evidence
            assert verdict.history is not None
            assert baseline is not None
            assert (verdict.history.last, verdict.history.at) == (baseline.last, baseline.at)
        if len(rules) == 1 and entry.looks_like:
            assert finding.evidence["looks_like"] == entry.looks_like
        if len(rules) > 1 and entry.held:
            assert "since" in finding.evidence
    assert rules[0] == entry.rule
    assert rules[-1] == (entry.then or entry.rule)
    assert news == (len(set(rules)) if entry.held else 0)  # one alarm for each root, however many reads
    for text in entry.after:
        scene.advance_label()
        verdict = told(scene, text, true=True)
        assert verdict.findings == ()
        assert verdict.history is not None
        assert verdict.history.suspicion is None


def test_the_catalogue_is_large_and_covers_the_rules() -> None:
    assert len({entry.report for entry in CATALOGUE if entry.held}) >= 30
    assert {entry.rule for entry in CATALOGUE} | {entry.then for entry in CATALOGUE if entry.then} == set(RULES)
    assert {entry.figures for entry in CATALOGUE} == {"report", "ours"}
    assert len({entry.report for entry in CATALOGUE}) == len(CATALOGUE)
