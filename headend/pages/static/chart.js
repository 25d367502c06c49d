// Draws the table of daily use as two charts, one above the other. Without this file, or without JavaScript, the table stays.
(function () {
  "use strict";
  var place = document.getElementById("chart");
  var table = document.getElementById("use-table");
  if (!place || !table || typeof uPlot === "undefined") return;

  var DAY = 86400;
  var rows = Array.prototype.slice.call(table.querySelectorAll("tbody tr"));
  if (rows.length === 0) return;
  var known = {};
  rows.forEach(function (row) {
    known[Date.parse(row.dataset.day + "T00:00:00Z") / 1000] = [Number(row.dataset.kwh), Number(row.dataset.cost)];
  });
  var times = Object.keys(known).map(Number);
  var last = Math.max.apply(null, times);
  var first = Math.min(Math.min.apply(null, times), last - 6 * DAY); // one lonely day is not drawn as wide as the page
  var days = [], kwh = [], cost = [];
  for (var at = first; at <= last; at += DAY) {
    var found = known[at];
    days.push(at);
    kwh.push(found ? found[0] : null); // a day that is not charged is a gap, and not nothing
    cost.push(found ? found[1] : null);
  }

  var language = place.dataset.lang === "en" ? "en-GB" : place.dataset.lang;
  var dayName = new Intl.DateTimeFormat(language, { month: language === "en-GB" ? "short" : "numeric", day: "numeric", timeZone: "UTC" });
  var longName = new Intl.DateTimeFormat(language, { month: "short", day: "numeric", weekday: "short", timeZone: "UTC" });
  var drawn = [], frames = [], figures = [];

  function color(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function range(self, least, most) {
    return [Math.min(0, least || 0), most > 0 ? most * 1.12 : 1];
  }

  function options(paint) {
    var ink = color("--quiet"), line = color("--rule");
    var axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    return {
      width: place.clientWidth,
      height: 150,
      tzDate: function (seconds) { return uPlot.tzDate(new Date(seconds * 1000), "UTC"); },
      padding: [6, 6, 0, 0],
      cursor: { sync: { key: "use" }, y: false, points: { show: false }, drag: { x: false, y: false } },
      legend: { show: false },
      hooks: { setCursor: [function (self) { told(self.cursor.idx === null || self.cursor.idx === undefined ? days.length - 1 : self.cursor.idx); }] },
      scales: { x: { time: true, range: [first - DAY * 0.6, last + DAY * 0.6] }, y: { range: range } },
      axes: [
        Object.assign({}, axis, {
          grid: { show: false }, space: 52, size: 26, gap: 5,
          incrs: [DAY, 2 * DAY, 5 * DAY, 7 * DAY, 10 * DAY],
          values: function (self, splits) { return splits.map(function (s) { return dayName.format(new Date(s * 1000)); }); }
        }),
        Object.assign({}, axis, { size: 40, gap: 6, space: 34, values: function (self, splits) { return splits.map(function (v) { return v === 0 ? "" : String(v); }); } })
      ],
      series: [
        {},
        {
          fill: paint, stroke: paint, width: 0,
          paths: uPlot.paths.bars({ size: [0.72, 22, 1], radius: 0.15 }), points: { show: false }
        }
      ]
    };
  }

  // Above each chart: what it shows, and the day under the pointer; the newest one without a pointer.
  function head(name, swatch) {
    var line = document.createElement("p"), what = document.createElement("span"), figure = document.createElement("strong");
    var mark = document.createElement("span");
    line.className = "chart-head";
    mark.className = "swatch " + swatch;
    what.append(mark, name);
    line.append(what, figure);
    var frame = document.createElement("div");
    place.append(line, frame);
    frames.push(frame);
    figures.push(figure);
  }

  function told(at) {
    [kwh, cost].forEach(function (amounts, number) {
      var amount = amounts[at];
      figures[number].textContent = longName.format(new Date(days[at] * 1000)) + " · " + (amount === null ? "–" : amount.toFixed(2));
    });
  }

  function draw() {
    drawn.forEach(function (chart) { chart.destroy(); });
    drawn = [
      new uPlot(options(color("--bar")), [days, kwh], frames[0]),
      new uPlot(options(color("--bar-2")), [days, cost], frames[1])
    ];
    told(days.length - 1);
  }

  place.hidden = false;
  document.getElementById("use-details").open = false;
  head(place.dataset.kwh, "swatch-1");
  head(place.dataset.cost, "swatch-2");
  draw();
  place.dataset.drawn = String(drawn.length);
  var width = place.clientWidth;
  new ResizeObserver(function () {
    if (place.clientWidth === width) return;
    width = place.clientWidth;
    drawn.forEach(function (chart) { chart.setSize({ width: width, height: 150 }); });
  }).observe(place);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  window.addEventListener("beforeprint", function () { document.getElementById("use-details").open = true; });
})();
