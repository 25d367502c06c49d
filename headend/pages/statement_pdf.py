"""A statement on A4 paper. Chinese is set in STSong-Light, which readers bring along: no font file is needed here."""

import io
import unicodedata
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_LEFT, TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, KeepTogether, Paragraph, SimpleDocTemplate, Spacer, TableStyle
from reportlab.platypus import Table as PaperTable

from headend.pages.statement_view import Sheet, Table
from headend.pages.words import Words

__all__ = ["statement_pdf"]

CHINESE = "STSong-Light"
LATIN, LATIN_BOLD = "Helvetica", "Helvetica-Bold"
MARGIN = 18 * mm
PAD = 6  # what the frame keeps free inside its margins
WIDTH = A4[0] - 2 * (MARGIN + PAD)
INK, QUIET, RULE, SHADE = HexColor(0x16202A), HexColor(0x55616D), HexColor(0xC9D1D9), HexColor(0xF1F4F7)

pdfmetrics.registerFont(UnicodeCIDFont(CHINESE))


def statement_pdf(sheet: Sheet, t: Words) -> bytes:
    paper = io.BytesIO()
    document = SimpleDocTemplate(
        paper,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN + 6 * mm,
        title=f"{sheet.title} {sheet.account} {sheet.month}",
        author=t("site.name"),
        lang=t.tag,
    )
    document.build(list(_story(sheet, t)), canvasmaker=_numbered(sheet, t))
    return paper.getvalue()


def _story(sheet: Sheet, t: Words) -> Sequence[Flowable]:
    story: list[Flowable] = [
        _paragraph(f"{sheet.title}  {sheet.month_words}", 17, bold=True, after=7),
        _facts(sheet.heads),
        Spacer(1, 3 * mm),
        _paragraph(sheet.final, 9, color=QUIET, after=2),
    ]
    for table in sheet.tables:
        title = _paragraph(table.title, 11.5, bold=True, before=9, after=4)
        body = _table(table) if table.rows else _paragraph(t("statement.none"), 9, color=QUIET)
        story.append(KeepTogether([title, body]))  # what is longer than a page is split all the same
    story += [Spacer(1, 5 * mm), _paragraph(sheet.rounding, 8, color=QUIET), _paragraph(sheet.made, 8, color=QUIET)]
    return story


def _facts(heads: Sequence[tuple[str, str]]) -> PaperTable:
    rows = [[_paragraph(name, 9, color=QUIET), _paragraph(text, 9)] for name, text in heads]
    table = PaperTable(rows, colWidths=[0.22 * WIDTH, 0.78 * WIDTH], hAlign="LEFT")
    table.setStyle(TableStyle([("LEFTPADDING", (0, 0), (-1, -1), 0), *_tight(1.5)]))
    return table


def _table(table: Table) -> PaperTable:
    rows: list[list[Paragraph]] = []
    if table.heads:
        rows.append([_cell(text, table.is_figure(at), color=QUIET) for at, text in enumerate(table.heads)])
    for number, row in enumerate(table.rows):
        is_sum = table.has_total and number == len(table.rows) - 1
        rows.append([_cell(text, table.is_figure(at), bold=is_sum) for at, text in enumerate(row)])
    paper = PaperTable(
        rows, colWidths=[part * WIDTH for part in table.widths], repeatRows=1 if table.heads else 0, hAlign="LEFT"
    )
    style: list[Any] = [
        ("LINEBELOW", (0, 0), (-1, -1), 0.4, RULE),
        ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        *_tight(2.6),
    ]
    if table.heads:
        style.append(("BACKGROUND", (0, 0), (-1, 0), SHADE))
    if table.has_total:
        style.append(("LINEABOVE", (0, -1), (-1, -1), 0.9, INK))
    paper.setStyle(TableStyle(style))
    return paper


def _tight(pad: float) -> list[Any]:
    return [("TOPPADDING", (0, 0), (-1, -1), pad), ("BOTTOMPADDING", (0, 0), (-1, -1), pad + 0.8)]


def _cell(text: str, is_figure: bool, *, bold: bool = False, color: Color = INK) -> Paragraph:
    return _paragraph(text, 9, bold=bold, color=color, right=is_figure)


def _paragraph(
    text: str,
    size: float,
    *,
    bold: bool = False,
    color: Color = INK,
    right: bool = False,
    before: float = 0,
    after: float = 0,
) -> Paragraph:
    style = ParagraphStyle(
        "own",
        fontName=LATIN_BOLD if bold else LATIN,
        fontSize=size,
        leading=size * 1.42,
        textColor=color,
        spaceBefore=before,
        spaceAfter=after,
        wordWrap="CJK" if _is_chinese(text) else None,
        alignment=TA_RIGHT if right else TA_LEFT,
    )
    return Paragraph(_marked(text), style)


def _marked(text: str) -> str:
    """Chinese runs in the Chinese font, the rest in Helvetica, which has no minus sign of its own: a hyphen stands for it."""
    parts: list[str] = []
    run, was = "", False
    for letter in text.replace("−", "-"):
        is_ = _is_wide(letter)
        if is_ is not was and run:
            parts.append(_run(run, was))
            run = ""
        run, was = run + letter, is_
    return "".join([*parts, _run(run, was)])


def _run(text: str, is_chinese: bool) -> str:
    return f'<font name="{CHINESE}">{escape(text)}</font>' if is_chinese else escape(text)


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF" or not _is_latin_1(letter)


def _is_latin_1(letter: str) -> bool:
    try:
        letter.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def _is_chinese(text: str) -> bool:
    return any(unicodedata.east_asian_width(letter) in "WF" for letter in text)


def _numbered(sheet: Sheet, t: Words) -> type[Canvas]:
    """A canvas that knows how many pages there are before it writes the number of each."""

    class Numbered(Canvas):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._held: list[dict[str, Any]] = []

        def showPage(self) -> None:  # noqa: N802 - reportlab's name
            self._held.append(dict(self.__dict__))
            self._startPage()  # type: ignore[attr-defined]  # missing in the stubs

        def save(self) -> None:
            pages = len(self._held)
            for number, held in enumerate(self._held, 1):
                self.__dict__.update(held)
                self._foot(t("statement.page", page=number, pages=pages))
                super().showPage()
            super().save()

        def _foot(self, text: str) -> None:
            self.setFillColor(QUIET)
            self.setFont(CHINESE if _is_chinese(text) else LATIN, 8)
            self.drawRightString(A4[0] - MARGIN - PAD, 11 * mm, text)
            named = f"{sheet.account}  {sheet.month}"
            self.setFont(CHINESE if _is_chinese(named) else LATIN, 8)
            self.drawString(MARGIN + PAD, 11 * mm, named)

    return Numbered
