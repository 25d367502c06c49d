"""A conformance report as one HTML file: nothing is fetched from anywhere, so that it can be mailed and filed."""

from html import escape
from string import Template

from firmware_contracts.findings import Exchange, Finding, Report, Verdict

__all__ = ["report_html"]

_CLASS = {
    Verdict.PASS: "pass",
    Verdict.FAIL: "fail",
    Verdict.NOT_OFFERED: "absent",
    Verdict.NOT_JUDGED: "open",
}

# The policy forbids every load, so that the file stays what it is even if a meter's text were markup.
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5c6877; --paper: #fff; --line: #dfe4ea; --tint: #f5f7f9;
  --pass: #1a7f4b; --fail: #c22f2f; --absent: #7b8794; --open: #a86b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #9aa7b5; --paper: #12181f; --line: #2b3540;
  --tint: #1a222b; --pass: #4cc38a; --fail: #ff7b7b; --absent: #8b98a6; --open: #e0a83c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
.lead { color: var(--soft); margin: .25rem 0 1.25rem; overflow-wrap: anywhere; }
.outcome { font-size: 1.05rem; font-weight: 600; margin: 0 0 1rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; }
.tiles button { flex: 1 1 8rem; text-align: left; padding: .75rem 1rem; background: var(--tint); color: inherit;
  border: 1px solid var(--line); border-left: 4px solid currentColor; border-radius: 4px; font: inherit; cursor: pointer; }
.tiles button[aria-pressed="false"] { opacity: .45; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.1; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); }
table { width: 100%; border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; width: 6rem; } th.number { text-align: right; }
.bar { display: flex; height: .6rem; border-radius: 3px; overflow: hidden; background: var(--line); margin-top: .45rem; }
.bar i { display: block; } .bar .pass { background: var(--pass); } .bar .fail { background: var(--fail); }
.bar .absent { background: var(--absent); } .bar .open { background: var(--open); }
.verdict { font-weight: 600; white-space: nowrap; }
.pass .verdict, button.pass { color: var(--pass); } .fail .verdict, button.fail { color: var(--fail); }
.absent .verdict, button.absent { color: var(--absent); } .open .verdict, button.open { color: var(--open); }
.tiles button b, .tiles button span { color: var(--ink); }
code, pre { font: 13px/1.45 ui-monospace, "SF Mono", Consolas, "DejaVu Sans Mono", monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .35rem 0 .25rem; padding: .5rem .75rem; background: var(--tint);
  border-radius: 4px; }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
.came { overflow-wrap: anywhere; } .wanted { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
tr.hidden, section.hidden { display: none; }
@media print { details { display: none; } .tiles button { break-inside: avoid; } }
</style>
</head>
<body>
<h1>$contract <small>on meter $meter</small></h1>
<p class="lead">$description. Line $line, $began, $took s.</p>
<p class="outcome">$outcome</p>
<div class="tiles">$tiles</div>
<h2>Families</h2>
<table><thead><tr><th>Family</th><th></th><th class="number">pass</th><th class="number">fail</th>
<th class="number">not offered</th><th class="number">not judged</th></tr></thead><tbody>$families</tbody></table>
$sections
<script>
const shown = new Set(["pass", "fail", "absent", "open"]);
for (const button of document.querySelectorAll(".tiles button")) {
  button.addEventListener("click", () => {
    const verdict = button.dataset.verdict;
    shown.has(verdict) ? shown.delete(verdict) : shown.add(verdict);
    button.setAttribute("aria-pressed", shown.has(verdict));
    for (const row of document.querySelectorAll("tr[data-verdict]")) row.classList.toggle("hidden", !shown.has(row.dataset.verdict));
    for (const section of document.querySelectorAll("section"))
      section.classList.toggle("hidden", !section.querySelector("tr[data-verdict]:not(.hidden)"));
  });
}
</script>
</body>
</html>
""")


def report_html(report: Report) -> str:
    """The whole report; frames are folded away, the buttons show and hide verdicts."""
    families = report.by_family()
    return _PAGE.substitute(
        title=escape(f"{report.contract} on {report.meter}"),
        contract=escape(report.contract),
        meter=escape(report.meter),
        description=escape(report.description.rstrip(".")),
        line=f"<code>{escape(report.line)}</code>",
        began=f"{report.began_at:%Y-%m-%d %H:%M:%S} UTC",
        took=f"{report.took.total_seconds():.1f}",
        outcome=escape(_outcome(report)),
        tiles="".join(_tile(verdict, report.count(verdict)) for verdict in Verdict),
        families="".join(
            _family(family, [counts[verdict] for verdict in Verdict]) for family, counts in families.items()
        ),
        sections="".join(_section(report, family) for family in families),
    )


def _outcome(report: Report) -> str:
    failures = report.count(Verdict.FAIL)
    outcome = (
        f"{failures} of {len(report.findings)} checks contradict the contract." if failures else "Keeps its contract."
    )
    lacking = report.lacking()
    return outcome + (f" Has no {', '.join(lacking)}." if lacking else "")


def _tile(verdict: Verdict, number: int) -> str:
    name = _CLASS[verdict]
    return (
        f'<button class="{name}" data-verdict="{name}" aria-pressed="true"><b>{number}</b>'
        f"<span>{verdict.value}</span></button>"
    )


def _family(family: str, numbers: list[int]) -> str:
    parts = "".join(
        f'<i class="{_CLASS[verdict]}" style="flex:{number}"></i>'
        for verdict, number in zip(Verdict, numbers, strict=True)
        if number
    )
    cells = "".join(f'<td class="number">{number or ""}</td>' for number in numbers)
    link = f'<a href="#{_anchor(family)}" style="color:inherit">{escape(family)}</a>'
    return f'<tr><td>{link}</td><td style="width:40%"><div class="bar">{parts}</div></td>{cells}</tr>'


def _section(report: Report, family: str) -> str:
    rows = "".join(_row(finding) for finding in report.findings if finding.family == family)
    return (
        f'<section id="{_anchor(family)}"><h2>{escape(family.capitalize())}</h2><table><thead><tr><th>Verdict</th><th>Item</th>'
        f"<th>What came</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _row(finding: Finding) -> str:
    name = _CLASS[finding.verdict]
    di = f"<code>{escape(finding.di)}</code> " if finding.di else ""
    frames = "\n".join(_frame(frame) for frame in finding.frames)
    folded = f"<details><summary>frames</summary><pre>{frames}</pre></details>" if frames else ""
    return (
        f'<tr class="{name}" data-verdict="{name}"><td class="verdict">{finding.verdict.value}</td>'
        f'<td>{di}{escape(finding.title)}<div class="wanted">expected: {escape(finding.expected)}</div></td>'
        f'<td><div class="came">{escape(finding.came)}</div>{folded}</td></tr>'
    )


def _frame(frame: Exchange) -> str:
    return escape(f"> {_hex(frame.sent)}\n< {_hex(frame.received) or '(nothing)'}")


def _hex(wire: bytes) -> str:
    return wire.hex(" ").upper()


def _anchor(family: str) -> str:
    return escape(family.replace(" ", "-"))
