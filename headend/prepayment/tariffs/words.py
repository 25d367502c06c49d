"""A tariff in plain words, English and Chinese, so that whoever signs it off need not read TOML."""

from decimal import Decimal

from headend.feed.envelope import plain
from headend.prepayment.money import shown
from headend.prepayment.tariffs.tariff import Band, DayKind, Season, Tariff, Timetable, Window

__all__ = ["explain"]

_BANDS = {Band.ALL: "", Band.SHARP: "尖", Band.PEAK: "峰", Band.FLAT: "平", Band.VALLEY: "谷"}
_KINDS = {
    DayKind.WORKDAY: ("workdays", "工作日"),
    DayKind.WEEKEND: ("weekends", "周末"),
    DayKind.HOLIDAY: ("holidays", "节假日"),
}


def explain(tariff: Tariff, language: str = "en") -> list[str]:
    """One sentence a line. language: "en" or "zh"."""
    return _chinese(tariff) if language == "zh" else _english(tariff)


def _english(tariff: Tariff) -> list[str]:
    unit = f"{tariff.currency} a kWh"
    lines = [f"Tariff {tariff.name}, version {tariff.version}, applies from {tariff.applies_from:%d %B %Y}."]
    if Band.ALL in tariff.prices:
        lines.append(f"Every kWh costs {plain(tariff.prices[Band.ALL])} {tariff.currency}.")
    else:
        prices = ", ".join(f"{band.name.lower()} {plain(price)}" for band, price in tariff.prices.items())
        lines.append(f"The time of day decides the price: {prices} {unit}.")
        lines += _times(tariff.timetable, "en")
    if tariff.steps is not None:
        every = "year" if tariff.steps.by_year else "month"
        for step in tariff.steps.steps:
            if step.above_kwh:
                lines.append(
                    f"Beyond {plain(step.above_kwh)} kWh in a {every}, each kWh costs {plain(step.addition)} {tariff.currency} more "
                    f"than its price."
                )
            elif step.addition:
                lines.append(f"From the first kWh of a {every} on, {plain(step.addition)} {tariff.currency} are added.")
        if tariff.steps.by_year and tariff.steps.prorated:
            lines.append(
                "Who begins inside a year has a twelfth of these limits for each month left, the first included."
            )
        if tariff.steps.extra_kwh:
            lines.append(
                f"A registered large household has {plain(tariff.steps.extra_kwh)} kWh a month more in each limit."
            )
    lines += [f"{levy.name}: {plain(levy.per_kwh)} {unit} more." for levy in tariff.surcharges]
    lines += [f"{tax.name}: {_percent(tax.rate)} on all of it." for tax in tariff.taxes]
    if tariff.minimum_minor:
        lines.append(
            f"A calendar month costs {shown(tariff.minimum_minor, tariff.currency)} {tariff.currency} at least; what is lacking is "
            f"charged on its last day."
        )
    lines.append(
        f"Each day's charge is rounded to the minor unit ({tariff.rounding.value}); what is left over counts for the next day, so that "
        f"a month is rounded once."
    )
    return lines


def _chinese(tariff: Tariff) -> list[str]:
    lines = [f"电价“{tariff.name}”,版本 {tariff.version},自 {tariff.applies_from:%Y年%m月%d日} 起执行。"]
    if Band.ALL in tariff.prices:
        lines.append(f"每千瓦时 {plain(tariff.prices[Band.ALL])} {tariff.currency}。")
    else:
        prices = "、".join(f"{_BANDS[band]} {plain(price)}" for band, price in tariff.prices.items())
        lines.append(f"分时电价:{prices}({tariff.currency}/千瓦时)。")
        lines += _times(tariff.timetable, "zh")
    if tariff.steps is not None:
        every = "年" if tariff.steps.by_year else "月"
        for step in tariff.steps.steps:
            if step.above_kwh:
                lines.append(
                    f"每{every}用电超过 {plain(step.above_kwh)} 千瓦时的部分,每千瓦时加价 {plain(step.addition)}。"
                )
            elif step.addition:
                lines.append(f"每{every}第一档每千瓦时加价 {plain(step.addition)}。")
        if tariff.steps.by_year and tariff.steps.prorated:
            lines.append("年中立户的,阶梯基数按剩余月份(含当月)折算。")
        if tariff.steps.extra_kwh:
            lines.append(f"已登记的多人口家庭,各档每月增加 {plain(tariff.steps.extra_kwh)} 千瓦时。")
    lines += [f"{levy.name}:每千瓦时另收 {plain(levy.per_kwh)}。" for levy in tariff.surcharges]
    lines += [f"{tax.name}:另加 {_percent(tax.rate)}。" for tax in tariff.taxes]
    if tariff.minimum_minor:
        lines.append(
            f"每月最低收费 {shown(tariff.minimum_minor, tariff.currency)} {tariff.currency},不足部分于月末日收取。"
        )
    lines.append(f"每日电费按最小货币单位取整({tariff.rounding.value}),余数计入次日,全月只取整一次。")
    return lines


def _times(timetable: Timetable | None, language: str) -> list[str]:
    if timetable is None:
        return [
            "表计自身的费率寄存器决定时段。"
            if language == "zh"
            else "The meter's own tariff registers say which band it was."
        ]
    lines = []
    for season in timetable.seasons:
        kinds: dict[tuple[Window, ...], list[DayKind]] = {}
        for kind in DayKind:
            kinds.setdefault(timetable.windows[season.name, kind], []).append(kind)
        for windows, days in kinds.items():
            lines.append(
                _times_of(season, days if len(kinds) > 1 else [], windows, language, one=len(timetable.seasons) == 1)
            )
    return lines


def _times_of(season: Season, days: list[DayKind], windows: tuple[Window, ...], language: str, *, one: bool) -> str:
    place = 1 if language == "zh" else 0
    named = "、".join(_KINDS[day][1] for day in days) if place else ", ".join(_KINDS[day][0] for day in days)
    spans = [
        f"{window.start:%H:%M}–{'24:00' if not window.end.hour and not window.end.minute else format(window.end, '%H:%M')} "
        f"{_BANDS[window.band] if place else window.band.name.lower()}"
        for window in windows
    ]
    if place:
        when = "全年" if one else f"{season.first[0]}月{season.first[1]}日至{season.last[0]}月{season.last[1]}日"
        return f"{when}{named}:{'、'.join(spans)}。"
    when = (
        "All year"
        if one
        else f"From {season.first[0]:02}-{season.first[1]:02} to {season.last[0]:02}-{season.last[1]:02}"
    )
    return f"{when}{', ' + named if named else ''}: {', '.join(spans)}."


def _percent(rate: Decimal) -> str:
    return f"{plain((rate * 100).normalize())} %"
