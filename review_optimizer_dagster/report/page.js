"use strict";
/* Draws the figures from the JSON beside it. Nothing is fetched; data becomes text, never markup. */
(() => {
const MS = 86400000;
const PAGE = JSON.parse(document.getElementById("data").textContent);
const FIGURES = JSON.parse(document.getElementById("figures").textContent);
const $ = (id) => document.getElementById(id);

/* ---- data ------------------------------------------------------------------------------------ */
function decode(c) {
  if (Array.isArray(c)) return c;
  if ("s" in c) return decode(c.i).map((key) => c.s[key]);
  const runs = "r" in c ? c.r : c.d.slice(1), values = [];
  for (let i = 0; i < runs.length; i += 2) for (let n = runs[i + 1]; n > 0; n--) values.push(runs[i]);
  if ("r" in c) return values;
  let value = c.d[0];
  return [value, ...values.map((step) => (value += step))];
}
const TABLES = {};
for (const [name, table] of Object.entries(PAGE.tables)) {
  const columns = Object.entries(table.columns).map(([key, column]) => [key, decode(column)]);
  TABLES[name] = Array.from({ length: table.rows }, (_, i) => {
    const row = {};
    for (const [key, values] of columns) row[key] = values[i];
    return row;
  });
}
const EVERYONE = new Set(PAGE.everyone);
let chosen = "";

/* Rows of the chosen tenant, or of all that count together. */
const pick = (name) => (TABLES[name] || []).filter((row) => chosen ? row.who === chosen : EVERYONE.has(row.who));
/* Rows of tables that have all tenants together as rows of their own, under no name. */
const measured = (name) => (TABLES[name] || []).filter((row) => row.who === chosen);
const today = (rows) => rows.filter((row) => row.day === PAGE.last);
const sum = (rows, key) => rows.reduce((total, row) => total + (row[key] || 0), 0);
const ratio = (part, whole) => (whole ? part / whole : null);
const isNumber = (value) => value !== null && value !== undefined;
function grouped(rows, ...keys) {
  const groups = new Map();
  for (const row of rows) {
    const key = keys.map((each) => row[each]).join("\u0000");
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(row);
  }
  return [...groups.values()];
}
/* The most telling tenants by a measure: a chart with fifty lines says nothing. */
function foremost(rows, measure, most = 6) {
  const scores = grouped(rows, "who").map((own) => [own[0].who, measure(own)]);
  scores.sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  return scores.slice(0, most).map(([who]) => who);
}
const SERIES = 8;
const colour = (place) => `var(--c${1 + (place % SERIES)})`;
const byPlace = (names) => (a, b) => names.indexOf(a.s) - names.indexOf(b.s) || a.t - b.t;

/* ---- words ----------------------------------------------------------------------------------- */
const number = (digits) => new Intl.NumberFormat("en-US", { maximumFractionDigits: digits });
const N0 = number(0), N2 = number(2), N3 = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });
/* Cents, and below a dollar three digits that count: as words.py writes sums. */
function usd(value) {
  if (!isNumber(value)) return "";
  const size = Math.abs(value), digits = size > 0 && size < 1 ? Math.min(9, Math.max(2, 2 - Math.floor(Math.log10(size)))) : 2;
  return (value < 0 ? "-$" : "$") + size.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: digits });
}
/* Details and messages come from many places; per cent is written one way, and never at a line's beginning. */
const BLANK = "\u00a0";
const glued = (text) => text.replace(/(\d)[ \u00a0]?%/g, `$1${BLANK}%`);
const DAY_NAMES = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const MOMENTS = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: "UTC" });
const day = (days) => DAY_NAMES.format(new Date(days * MS));
const percent = (value) => (isNumber(value) ? N2.format(100 * value) + `${BLANK}%` : "");
const WRITE = {
  text: (value) => (isNumber(value) ? String(value) : ""),
  words: (value) => (isNumber(value) ? glued(String(value)) : ""),
  day: (value) => (isNumber(value) ? DAY_NAMES.format(new Date(value)) : ""),
  moment: (value) => (isNumber(value) ? MOMENTS.format(new Date(value)) : ""),
  int: (value) => (isNumber(value) ? N0.format(value) : ""),
  number: (value) => (isNumber(value) ? N3.format(value) : ""),
  share: percent,
  usd,
  ms: (value) => (isNumber(value) ? N0.format(value) : ""),
};
const PROMISES = Object.fromEntries(PAGE.indicators);
const ALLOWED = {
  run_seconds: (v) => N3.format(v) + " s", freshness_hours: (v) => N3.format(v) + " h",
  latency_p95_ms: (v) => N0.format(v) + " ms", hit_rate: percent, accuracy: percent,
  usd_per_1000: usd, failed_share: percent,
};
const promised = (row, value) => (isNumber(value) ? (ALLOWED[row.indicator] || N3.format)(value) : "");
const SIGNS = { good: "\u2713", bad: "\u2717", look: "!", none: "\u2013" };
const KINDS = {
  met: "good", passed: "good", broken: "bad", failed: "bad", critical: "bad", warning: "look",
  inconclusive: "look", unknown: "none", "not promised": "none", info: "none", open: "look",
};

/* ---- elements -------------------------------------------------------------------------------- */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== false) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
function badge(word) {
  const kind = KINDS[word] || "none";
  return element("span", { class: "verdict", "data-v": kind }, SIGNS[kind] + " " + word);
}
const NUMERIC = new Set(["int", "number", "share", "usd", "ms"]);
function tableOf(columns, rows, label, most = 1000) {
  const head = element("tr");
  for (const [, title, kind] of columns) head.append(element("th", { scope: "col", class: NUMERIC.has(kind) ? "n" : "" }, title));
  const body = element("tbody");
  for (const row of rows.slice(0, most)) {
    const line = element("tr");
    for (const [key, , kind] of columns) {
      const value = row[key];
      if (kind === "verdict") line.append(element("td", {}, value ? badge(value) : ""));
      else line.append(element("td", { class: NUMERIC.has(kind) ? "n" : ["words", "day", "moment", "key"].includes(kind) ? kind : "" }, (WRITE[kind] || WRITE.text)(value)));
    }
    body.append(line);
  }
  const made = element("table", {}, element("thead", {}, head), body);
  const scroll = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, made);
  if (rows.length > most) scroll.append(element("p", { class: "note" }, `${N0.format(most)} of ${N0.format(rows.length)} rows`));
  return scroll;
}

/* ---- rows of each chart ---------------------------------------------------------------------- */
const t = (row) => row.day * MS;
function overTenants(rows, value, more, measure) {
  const names = foremost(rows, measure);
  const kept = rows.filter((row) => names.includes(row.who) && isNumber(value(row)));
  return kept.map((row) => ({ t: t(row), s: row.who, v: value(row), colour: colour(names.indexOf(row.who)), ...more(row) })).sort(byPlace(names));
}
/* How much of what a promise allows was used: 1 is at the limit. */
function allowance(row) {
  if (!isNumber(row.target) || !isNumber(row.value)) return null;
  const least = row.indicator === "hit_rate" || row.indicator === "accuracy";
  const [used, allowed] = least ? [1 - row.value, 1 - row.target] : [row.value, row.target];
  return allowed > 0 ? used / allowed : used > 0 ? 2 : 0;
}
const lastOf = (own, key) => { const found = own.filter((row) => isNumber(row[key])); return found.length ? found[found.length - 1][key] : null; };
/* A class as its label and field: what differs comes first, and is not what a narrow axis cuts off. */
const classed = (name) => { const [field, label] = name.split(/=(.*)/s); return label === undefined ? name : `${label} (${field})`; };
const ROWS = {
  allowance() {
    const rows = pick("promises").filter((row) => row.indicator !== "all" && allowance(row) !== null);
    const names = foremost(rows, (own) => Math.max(...own.map(allowance)), 8);
    const order = Object.keys(PROMISES);
    const own = rows.filter((row) => names.includes(row.who)), several = new Set(own.map((row) => row.who)).size > 1;
    const worst = new Map(!several ? [] : grouped(own, "indicator").map((each) => {
      const row = each.reduce((a, b) => (allowance(b) > allowance(a) ? b : a)), beyond = each.filter((one) => allowance(one) > 1).length;
      return [row, beyond > 1 ? `${beyond} tenants` : row.who];
    }));
    return own.map((row) => ({
      tenant: row.who, label: allowance(row) >= 0.1 ? worst.get(row) ?? "" : "", promise: PROMISES[row.indicator], s: row.verdict, v: allowance(row),
      shown: Math.min(2, allowance(row)), target_text: promised(row, row.target), value_text: promised(row, row.value),
      place: order.indexOf(row.indicator),
    })).sort((a, b) => a.place - b.place || names.indexOf(a.tenant) - names.indexOf(b.tenant));
  },
  budget_left: () => overTenants(pick("service"), (row) => ratio(row.left_days, row.budget_days),
    (row) => ({ left: row.left_days, budget: row.budget_days, verdict: row.verdict }), (own) => -(lastOf(own, "left_days") ?? 1e9)),
  burn: () => overTenants(pick("service"), (row) => row.burn_rate, (row) => ({ verdict: row.verdict }), (own) => lastOf(own, "burn_rate") ?? -1),
  budget() {
    const rows = pick("budgets");
    return overTenants(rows, (row) => ratio(row.spent_usd, row.budget_usd), (row) => ({
      spent: row.spent_usd, held: row.held_usd, budget: row.budget_usd, period: row.period, what: "used by then",
    }), (own) => ratio(lastOf(own, "spent_usd"), lastOf(own, "budget_usd")) ?? -1);
  },
  spend() {
    const rows = pick("costs"), names = foremost(rows, (own) => sum(own, "cost_usd"), 7);
    const all = new Set(rows.map((row) => row.who)), others = [...all].filter((who) => !names.includes(who));
    const label = others.length === 1 ? others[0] : `${others.length} others`;
    const shown = [...names, ...(others.length ? [label] : [])];
    const merged = grouped(rows.map((row) => ({ ...row, s: names.includes(row.who) ? row.who : label })), "s", "day");
    return merged.map((own) => ({
      t: t(own[0]), s: own[0].s, v: sum(own, "cost_usd"), reviews: sum(own, "reviews"),
      per_1000: 1000 * (ratio(sum(own, "cost_usd"), sum(own, "reviews")) || 0), place: shown.indexOf(own[0].s),
    })).filter((row) => row.reviews || row.v).sort(byPlace(shown));
  },
  savings() {
    const series = [["one large model", "baseline_usd"], ["without a cache", "no_cache_usd"], ["paid", "cost_usd"]];
    const days = grouped(pick("costs"), "day");
    return series.flatMap(([s, key]) => days.map((own) => ({
      t: t(own[0]), s, v: sum(own, key), saved: s === "paid" || !sum(own, key) ? null : 1 - sum(own, "cost_usd") / sum(own, key),
    }))).filter((row) => row.v > 0).sort((a, b) => series.findIndex(([s]) => s === a.s) - series.findIndex(([s]) => s === b.s) || a.t - b.t);
  },
  tiers() {
    return grouped(pick("tiers"), "day", "tier", "model").map((own) => ({
      t: t(own[0]), s: own[0].tier, model: own[0].model, v: sum(own, "asked"), passed_on: sum(own, "passed_on"),
      passed_share: ratio(sum(own, "passed_on"), sum(own, "asked")), cost: sum(own, "cost_usd"), requests: sum(own, "requests"),
    }));
  },
  levels() {
    return grouped(pick("levels"), "day").flatMap((own) => {
      const whole = sum(own, "reviews");
      return grouped(own, "level").map((each) => ({
        t: t(each[0]), s: each[0].level, v: sum(each, "reviews"), share: ratio(sum(each, "reviews"), whole), place: PAGE.levels.indexOf(each[0].level),
      }));
    }).sort(byPlace(PAGE.levels));
  },
  categories() {
    const rows = measured("categories").map((row) => ({ ...row, s: row.category }));
    const sizes = grouped(rows, "s").map((own) => [own[0].s, sum(own, "reviews")]).sort((a, b) => b[1] - a[1]).map(([s]) => s);
    return rows.map((row) => ({ t: t(row), s: row.s, v: ratio(row.hits, row.reviews), hits: row.hits, reviews: row.reviews })).filter((row) => isNumber(row.v)).sort(byPlace(sizes));
  },
  served() {
    const names = foremost(pick("costs"), (own) => sum(own, "reviews"), 6);
    const limit = allowedError();
    return pick("errors").filter((row) => names.includes(row.who) && row.n > 0).map((row) => ({
      tenant: row.who, s: row.level, served: row.served_share, v: row.error_share, lower: row.lower, upper: row.upper,
      n: row.n, wrong: row.disagreements, max_error: row.level === "l3_pattern" ? limit : null,
    })).sort(byPlace(PAGE.levels));
  },
  bounds() {
    const seen = new Set(), order = ["serving", "switched off", "cut out", "abstains"];
    const rows = pick("bounds").filter((row) => {
      const key = [row.scope, row.field, row.label, row.category].join("\u0000");
      return seen.has(key) ? false : seen.add(key);
    });
    const several = new Set(rows.map((row) => row.scope)).size > 1;
    return rows.sort((a, b) => order.indexOf(a.status) - order.indexOf(b.status) || b.bound / b.max_error - a.bound / a.max_error).map((row) => ({
      name: (several ? row.scope + ": " : "") + `${row.label} (${row.field})` + (row.category === "all categories" ? "" : `, ${row.category}`),
      s: row.status, v: row.bound, max_error: row.max_error, n: row.n, errors: row.errors, threshold: row.threshold,
    }));
  },
  accuracy() {
    return overTenants(pick("quality"), (row) => row.accuracy, (row) => ({
      lower: row.lower, upper: row.upper, n: row.n, truth: row.truth, verdict: row.verdict,
    }), (own) => -(lastOf(own, "accuracy") ?? 2));
  },
  parts() {
    const rows = pick("parts"), several = new Set(rows.map((row) => row.who)).size > 1;
    return rows.map((row) => ({
      name: (several ? row.who + ": " : "") + classed(row.name), s: row.dimension, v: row.accuracy, lower: row.lower, upper: row.upper,
      n: row.n, below_text: row.below ? "yes" : "no", below: row.below,
    })).sort((a, b) => b.below - a.below || a.v - b.v || b.n - a.n);
  },
  drift() {
    return overTenants(pick("drift_days").filter((row) => row.alarms), (row) => row.alarms, (row) => ({ tests: row.tests }), (own) => sum(own, "alarms"));
  },
  latency() {
    const series = [["p99", "p99_ms"], ["p95", "p95_ms"], ["median", "p50_ms"], ["expected median", "expected_ms"]];
    return series.flatMap(([s, key]) => measured("latencies").filter((row) => isNumber(row[key])).map((row) => ({
      t: t(row), s, v: row[key], requests: row.requests, slowdown: row.slowdown,
    })));
  },
  histogram() {
    return measured("histogram").map((row) => {
      const from = 2 ** (row.bucket / 4), to = 2 ** ((row.bucket + 1) / 4);
      return { name: `${N0.format(from)} to ${N0.format(to)} ms`, from, to, v: row.requests };
    }).sort((a, b) => a.from - b.from);
  },
  expected() {
    return pick("requests").filter((row) => isNumber(row.expected_ms)).map((row) => ({
      sent: row.sent_at, tenant: row.who, s: row.degraded ? "inside a degradation" : row.slow ? "slow" : "as expected",
      expected: row.expected_ms, v: row.latency_ms, reviews: row.reviews,
    }));
  },
  slow() {
    return [["slow", "slow"], ["inside a degradation", "degraded"]].flatMap(([s, key]) => measured("latencies").filter((row) => row[key]).map((row) => ({
      t: t(row), s, v: row[key], judged: row.judged,
    })));
  },
  sizes() {
    return [["largest", "most_reviews"], ["mean", "mean_reviews"]].flatMap(([s, key]) => measured("batches").filter((row) => isNumber(row[key])).map((row) => ({
      t: t(row), s, v: row[key], requests: row.requests,
    })));
  },
  peaks: () => measured("batches").filter((row) => isNumber(row.peak)).map((row) => ({ t: t(row), s: "most at once", v: row.peak, requests: row.requests })),
  memory: () => measured("batches").filter((row) => isNumber(row.memory_share)).map((row) => ({ t: t(row), s: chosen || "all tenants", v: row.memory_share })),
  in_flight: () => measured("in_flight").map((row) => ({ t: row.moment, v: row.flying })).sort((a, b) => a.t - b.t),
  sent() {
    const rows = pick("requests"), names = foremost(rows, (own) => own.length, 7);
    const of = (row) => (names.includes(row.who) ? row.who : "others");
    return rows.map((row) => ({ t: row.sent_at, s: of(row), v: row.reviews, latency: row.latency_ms, status: row.status, memory: row.memory_share })).sort(byPlace([...names, "others"]));
  },
  memory_now: () => pick("requests").filter((row) => isNumber(row.memory_share)).map((row) => ({ t: row.sent_at, s: row.who, v: row.memory_share })).sort((a, b) => a.t - b.t),
  raised() {
    const rows = pick("alerts").filter((row) => row.period.length >= 10).map((row) => ({ ...row, t: Date.parse(row.period.slice(0, 10) + "T00:00:00Z") }));
    return grouped(rows.filter((row) => row.t >= PAGE.first * MS && row.t <= PAGE.last * MS), "t", "severity").map((own) => ({ t: own[0].t, s: own[0].severity, v: own.length }));
  },
};
function allowedError() {
  const limits = pick("bounds").map((row) => row.max_error).filter(isNumber);
  return limits.length ? Math.min(...limits) : null;
}
/* Names of lines nearer to each other than a line of text stand together at the highest of them. */
function apart(lines, low, high, height) {
  const sorted = [...lines].sort((a, b) => b.y - a.y || (a.kind === "limit" ? -1 : 1)).map((line) => ({ ...line }));
  let top = null;
  for (const line of sorted) {
    if (top && ((top.y - line.y) / (high - low)) * height < 15) {
      top.name += `, ${line.name}`;
      line.name = "";
    } else top = line;
  }
  return sorted;
}
/* From where to where the accuracy is shown: all that is drawn, with air. */
function accuracyRange(rows, lines) {
  const values = [...rows.flatMap((row) => [row.v, row.lower, row.upper]), ...lines.map((line) => line.y)].filter(isNumber);
  const least = Math.min(...values), most = Math.max(...values), air = Math.max(0.06 * (most - least), 0.002);
  return { low: least - air, high: most + air };
}
/* How much of its budget is shown: what was used and is forecast, and of its interval what leaves that legible. */
function budgetCeiling(rows) {
  const forecast = pick("forecasts").filter((row) => row.budget_usd), used = Math.max(1, ...rows.map((row) => row.v));
  const reach = Math.max(0, ...forecast.map((row) => (row.upper_usd ?? row.expected_usd ?? 0) / row.budget_usd));
  return Math.max(1.16, 1.1 * used, Math.min(1.1 * reach, 2 * used));
}
/* The lines of a chart: thresholds and limits, each with its name. */
const LINES = {
  budget(rows) {
    const shown = new Set(rows.map((row) => row.s)), levels = new Map();
    for (const row of pick("budgets").filter((each) => shown.has(each.who)))
      for (const level of row.thresholds.split(",").filter(Boolean)) levels.set(+level, true);
    const found = [...levels.keys()].sort((a, b) => a - b).map((level) => ({ y: level / 100, kind: "warning", name: `alert at ${percent(level / 100)}` }));
    return rows.length ? apart([...found.filter((line) => line.y !== 1), { y: 1, kind: "limit", name: "budget" }], 0, budgetCeiling(rows), 270) : [];
  },
  served: () => { const limit = allowedError(); return limit === null ? [] : [{ y: limit, kind: "limit", name: `allowed for learned patterns: ${percent(limit)}` }]; },
  accuracy(rows) {
    const shown = new Set(rows.map((row) => row.s)), own = pick("quality").filter((row) => shown.has(row.who));
    const newest = grouped(own, "who").map((each) => each[each.length - 1]);
    const lines = (key, kind, name) => [...new Set(newest.map((row) => row[key]).filter(isNumber))].map((y) => ({ y, kind, name: `${name} ${percent(y)}` }));
    const found = [...lines("threshold", "limit", "threshold"), ...lines("goal", "goal", "goal")], { low, high } = accuracyRange(rows, found);
    return apart(found, low, high, 300);
  },
  parts: () => [...new Set(pick("parts").map((row) => row.threshold).filter(isNumber))].map((y) => ({ y, kind: "limit", name: "threshold" })),
  expected(rows) {
    const values = rows.flatMap((row) => [row.expected, row.v]).filter((value) => value > 0);
    return values.length ? [{ y: Math.min(...values) }, { y: Math.max(...values) }] : [];
  },
};
const FORECAST = {
  budget(rows) {
    const shown = new Map(rows.map((row) => [row.s, row.colour])), ceiling = budgetCeiling(rows);
    return pick("forecasts").filter((row) => shown.has(row.who) && row.budget_usd).map((row) => {
      const [year, month] = row.month.split("-").map(Number);
      return {
        t: Math.min(Date.UTC(year, month, 0), (PAGE.last + 3) * MS), s: row.who, colour: shown.get(row.who), v: row.expected_usd / row.budget_usd,
        shown: Math.min(row.expected_usd / row.budget_usd, 0.97 * ceiling), beyond: row.expected_usd / row.budget_usd > ceiling ? `forecast ${percent(row.expected_usd / row.budget_usd)}` : "",
        lower: (row.lower_usd ?? row.expected_usd) / row.budget_usd, upper: (row.upper_usd ?? row.expected_usd) / row.budget_usd,
        spent: row.expected_usd, held: null, budget: row.budget_usd, period: row.month, what: "forecast for the month",
      };
    });
  },
};
const MOST_BARS = { bounds: 16, parts: 16 };

/* %CHARTS% */

/* ---- sections -------------------------------------------------------------------------------- */
function build() {
  for (const [id, title] of PAGE.sections) {
    $("nav").append(element("li", {}, element("a", { href: "#" + id }, title)));
    const section = element("section", { id, "aria-labelledby": "h-" + id }, element("h2", { id: "h-" + id }, title));
    section.append(element("div", { id: "tables-" + id }));
    const grid = element("div", { class: "grid" });
    for (const figure of FIGURES.filter((each) => each.section === id && shownHere(each))) grid.append(frame(figure));
    section.append(grid);
    $("sections").append(section);
  }
  const real = PAGE.tenants.filter((who) => EVERYONE.has(who));
  for (const who of [...real, ...PAGE.tenants.filter((each) => !EVERYONE.has(each))]) $("tenant").append(element("option", { value: who }, who));
  if (PAGE.simulated) {
    $("simulated").hidden = false;
    $("simulated").textContent = PAGE.mixed
      ? "SIMULATED: tenants marked (simulated) were answered by a simulator; no money was spent on them. They are not part of \u201call tenants\u201d."
      : "SIMULATED: a simulator answered. Every figure is made up in the way of real ones, and no money was spent.";
  }
  const link = PAGE.kind === "day" ? element("a", { href: "operations.html" }, "All days") : element("a", { href: PAGE.day + ".html" }, `Requests of ${day(PAGE.last)} one by one`);
  $("about").append(link, `. ${day(PAGE.first)} to ${day(PAGE.last)}, days of delivery in UTC, from published/analytics.duckdb. This file fetches nothing.`);
}
const shownHere = (figure) => !figure.only || figure.only === PAGE.kind;
function frame(figure) {
  const heading = element("h3", {}, figure.title);
  if (PAGE.simulated && !PAGE.mixed) heading.append(element("span", { class: "mark" }, "simulated"));
  return element("figure", { id: "figure-" + figure.name },
    element("figcaption", {}, heading, element("p", {}, glued(figure.note))),
    element("div", { id: "chart-" + figure.name, class: "chart", role: "img" }),
    element("p", { id: "empty-" + figure.name, class: "empty", hidden: "" }, glued(figure.empty)),
    element("p", { id: "remark-" + figure.name, class: "note", hidden: "" }),
    element("details", {}, element("summary", {}, "The numbers"), element("div", { id: "table-" + figure.name })));
}
function panel(section, title, columns, rows, empty, note) {
  const made = element("div", { class: "panel" }, element("h3", {}, title));
  if (note) made.append(element("p", { class: "note" }, note));
  made.append(rows.length ? tableOf(columns, rows, title) : element("p", { class: "empty" }, empty));
  $("tables-" + section).append(made);
}
function serviceTable() {
  const rows = pick("promises");
  if (chosen) {
    panel("service", `What ${chosen} was promised of ${day(PAGE.last)}`, [["promise", "promise"], ["verdict", "verdict", "verdict"], ["was", "was", "number"], ["target_text", "promised", "number"], ["left", "error budget left (days)", "number"], ["burn_rate", "burn rate", "number"], ["detail", "in words", "words"]].map(fixed),
      rows.filter((row) => row.indicator !== "all").map((row) => ({ ...row, promise: PROMISES[row.indicator], was: promised(row, row.value), target_text: promised(row, row.target), left: isNumber(row.left_days) ? `${N3.format(row.left_days)} of ${N3.format(row.budget_days)}` : "", burn_rate: isNumber(row.burn_rate) ? N3.format(row.burn_rate) : "" })),
      "nothing was judged on this day");
    return;
  }
  const whole = grouped(rows, "who").map((own) => {
    const all = own.find((row) => row.indicator === "all") || {}, of = (verdict) => own.filter((row) => row.indicator !== "all" && row.verdict === verdict).map((row) => PROMISES[row.indicator]);
    return { who: own[0].who, verdict: all.verdict, kept: `${of("met").length} of ${of("met").length + of("broken").length}`, broken: of("broken").join(", "), unknown: of("unknown").join(", "), left: isNumber(all.left_days) ? `${N3.format(all.left_days)} of ${N3.format(all.budget_days)}` : "", burn: isNumber(all.burn_rate) ? N3.format(all.burn_rate) : "", order: of("broken").length ? 0 : all.verdict === "met" ? 2 : 1, days: all.left_days ?? 0 };
  }).sort((a, b) => a.order - b.order || a.days - b.days);
  panel("service", `Promises of ${day(PAGE.last)}`, [["who", "tenant", "text"], ["verdict", "day", "verdict"], ["kept", "kept", "number"], ["left", "error budget left (days)", "number"], ["burn", "burn rate", "number"], ["broken", "broken", "words"], ["unknown", "cannot be said", "words"]].map(fixed), whole, "no tenant was judged on this day");
}
/* Numbers that are written already, aligned like numbers. */
const fixed = ([key, title, kind]) => [key, title, kind === "number" ? "ready" : kind];
NUMERIC.add("ready");
function moneyTables() {
  const costs = today(pick("costs")), budgets = new Map(today(pick("budgets")).map((row) => [row.who, row])), forecasts = new Map(pick("forecasts").map((row) => [row.who, row]));
  const rows = costs.map((row) => {
    const budget = budgets.get(row.who), forecast = forecasts.get(row.who);
    return { who: row.who, reviews: row.reviews, cost: row.cost_usd, per_1000: row.reviews ? (1000 * row.cost_usd) / row.reviews : null, used: budget ? ratio(budget.spent_usd, budget.budget_usd) : null, budget: budget ? budget.budget_usd : null, expected: forecast ? forecast.expected_usd : null, saved: row.baseline_usd ? 1 - row.cost_usd / row.baseline_usd : null, saved_cache: row.no_cache_usd ? 1 - row.cost_usd / row.no_cache_usd : null };
  }).sort((a, b) => b.cost - a.cost);
  panel("money", `Spend of ${day(PAGE.last)}`, [["who", "tenant", "text"], ["reviews", "reviews", "int"], ["cost", "spent", "usd"], ["per_1000", "per 1,000", "usd"], ["saved", "saved against one large model", "share"], ["saved_cache", "saved by the cache", "share"], ["used", "budget used", "share"], ["budget", "budget", "usd"], ["expected", "month expected", "usd"]], rows, "no review was delivered on this day");
  const tiers = grouped(today(pick("tiers")), "tier", "model").map((own) => ({ tier: own[0].tier, model: own[0].model, requests: sum(own, "requests"), asked: sum(own, "asked"), passed: sum(own, "passed_on"), share: ratio(sum(own, "passed_on"), sum(own, "asked")), cost: sum(own, "cost_usd") }));
  panel("money", `Model tiers on ${day(PAGE.last)}`, [["tier", "tier", "text"], ["model", "model", "text"], ["requests", "requests", "int"], ["asked", "texts asked", "int"], ["passed", "passed on", "int"], ["share", "passed on of asked", "share"], ["cost", "cost", "usd"]], tiers, "no model was asked on this day");
}
function qualityTables() {
  const order = { failed: 0, inconclusive: 1, passed: 2 };
  panel("quality", `The gate on ${day(PAGE.last)}`, [["who", "tenant", "text"], ["taxonomy", "taxonomy", "text"], ["verdict", "verdict", "verdict"], ["detail", "in words", "words"]], [...pick("gate")].sort((a, b) => order[a.verdict] - order[b.verdict]), "the gate judged nothing on this day");
  const causes = pick("causes");
  if (causes.length) panel("quality", "What failed days came from", [["who", "tenant", "text"], ["kind", "kind", "text"], ["level", "level", "text"], ["field", "field", "text"], ["label", "label", "text"], ["category", "category", "text"], ["causes", "of them", "int"], ["wrong", "wrong", "int"], ["n", "with a truth", "int"]], causes, "");
  panel("quality", `Drift on ${day(PAGE.last)}`, [["who", "tenant", "text"], ["signal", "signal", "text"], ["category", "category", "text"], ["horizon", "compared", "text"], ["reviews", "reviews", "int"], ["distance", "of them in other buckets", "share"], ["p_adjusted", "adjusted p", "number"]], pick("drift").map((row) => ({ ...row, category: row.category || "all" })), "nothing drifted on this day");
}
function latencyTables() {
  panel("latency", "Degradations", [["who", "tenant", "text"], ["model", "model", "text"], ["tier", "tier", "text"], ["state", "state", "text"], ["onset_at", "began", "moment"], ["ended_at", "ended", "moment"], ["slowdown", "times slower", "number"], ["requests", "requests", "int"]], pick("degradations"), "no model has become slower");
  panel("latency", "The slowest requests of 30 days", [["day_ms", "day", "day"], ["who", "tenant", "text"], ["model", "model", "text"], ["tier", "tier", "text"], ["sent_at", "sent", "moment"], ["reviews", "reviews", "int"], ["latency_ms", "took (ms)", "ms"], ["expected_ms", "expected (ms)", "ms"], ["z", "z", "number"]], pick("slow").map((row) => ({ ...row, day_ms: row.day * MS })).sort((a, b) => b.day - a.day || b.z - a.z), "no request was slow");
}
function alertTable() {
  const rows = [...pick("alerts")].sort((a, b) => b.raised_at - a.raised_at).map((row) => ({ ...row, now: row.is_open ? "open" : row.recovery ? "recovery" : row.state === "acknowledged" ? "acknowledged" : "over" }));
  panel("alerts", "Log", [["raised_at", "raised", "moment"], ["severity", "severity", "verdict"], ["now", "now", "verdict"], ["who", "tenant", "text"], ["kind", "kind", "text"], ["period", "about", "key"], ["message", "message", "words"]], rows, "no alert was raised", "As of the last run. `review-optimizer alerts ack ID` acknowledges one.");
}
function tiles() {
  const costs = today(pick("costs")), cost = sum(costs, "cost_usd"), reviews = sum(costs, "reviews"), latency = today(measured("latencies"))[0];
  const quality = today(pick("quality")).filter((row) => row.n), weakest = quality.sort((a, b) => a.accuracy - b.accuracy)[0];
  const service = today(pick("service")).filter((row) => isNumber(row.left_days)).sort((a, b) => a.left_days / a.budget_days - b.left_days / b.budget_days)[0];
  const budget = today(pick("budgets")).sort((a, b) => ratio(b.spent_usd, b.budget_usd) - ratio(a.spent_usd, a.budget_usd))[0];
  const least = (row) => (chosen || PAGE.tenants.length < 2 ? "" : `${row.who}, `);
  const found = [
    ["Reviews", N0.format(reviews), sum(costs, "deferred") ? `${N0.format(sum(costs, "deferred"))} kept back` : "none kept back"],
    ["Hit rate", percent(ratio(sum(costs, "hits"), reviews)) || "\u2013", "answered without a model"],
    ["Spent", usd(cost), reviews ? `${usd((1000 * cost) / reviews)} per 1,000` : ""],
    ["Saved", sum(costs, "baseline_usd") ? percent(1 - cost / sum(costs, "baseline_usd")) : "\u2013", "against one large model"],
    [chosen ? "Accuracy" : "Lowest accuracy", weakest ? percent(weakest.accuracy) : "\u2013", weakest ? `${least(weakest)}at least ${percent(weakest.lower)}` : "no truth to measure against"],
    ["Response time p95", latency ? N0.format(latency.p95_ms) + " ms" : "\u2013", latency ? `${N0.format(latency.requests)} requests` : "no request"],
    [chosen ? "Budget used" : "Most budget used", budget ? percent(ratio(budget.spent_usd, budget.budget_usd)) : "\u2013", budget ? `${least(budget)}of ${usd(budget.budget_usd)}` : ""],
    [chosen ? "Error budget left" : "Least error budget", service ? percent(ratio(service.left_days, service.budget_days)) : "\u2013", service ? `${least(service)}burn rate ${isNumber(service.burn_rate) ? N3.format(service.burn_rate) : "unknown"}` : ""],
  ];
  $("tiles").replaceChildren(...found.map(([title, value, more]) => element("div", {}, element("dt", {}, title), element("dd", {}, value), element("dd", { class: "small" }, more))));
}
const MOST_ALONE = 2;
/* The first sentence; the section has all of it. */
function brief(text) {
  const first = text.split(/\. (?=[A-Z0-9])/)[0];
  return first.length > 220 ? first.slice(0, 217) + "\u2026" : first;
}
function verdict() {
  const counts = (reason) => (chosen ? reason.who === chosen : EVERYONE.has(reason.who));
  const found = PAGE.reasons.filter(counts), lines = [];
  for (const own of grouped(found, "group")) {
    const alone = own.length <= MOST_ALONE ? own : [];
    for (const reason of alone) lines.push([reason, reason.text]);
    if (!alone.length) {
      const names = [...new Set(own.map((reason) => reason.who))];
      lines.push([own[0], `${N0.format(own.length)} ${own[0].many}: ${names.slice(0, 4).join(", ")}${names.length > 4 ? ", \u2026" : ""}`]);
    }
  }
  const worst = found.some((reason) => reason.severity === "critical") ? "critical" : found.length ? "warning" : "fine";
  $("verdict").dataset.state = worst;
  const whom = chosen ? ` for ${chosen}` : "";
  const sign = { critical: SIGNS.bad, warning: SIGNS.look, fine: SIGNS.good }[worst];
  $("headline").replaceChildren(`${day(PAGE.last)}${whom}: `, element("span", { class: "state" }, `${sign}${BLANK}${worst === "fine" ? "fine" : "look here"}`));
  $("said").textContent = worst === "fine"
    ? "No gate failed, no promise was broken, no alert of the day is open, no budget is over a threshold, nothing drifted."
    : `${N0.format(lines.length)} ${lines.length === 1 ? "thing" : "things"} to look at on the newest day that was run.`.replace("the newest day that was run", PAGE.kind === "day" ? "this day" : "the newest day");
  $("reasons").replaceChildren(...lines.map(([reason, text]) => element("li", { "data-severity": reason.severity },
    element("a", { href: "#" + reason.section }, glued(brief(text))))));
  const older = PAGE.older.filter(counts).reduce((total, row) => total + row.open, 0);
  $("aside").replaceChildren(...(older ? ["Besides, ", element("a", { href: "#alerts" }, `${N0.format(older)} older ${older === 1 ? "alert is" : "alerts are"} not acknowledged`), "."] : []));
}

/* ---- all of it ------------------------------------------------------------------------------- */
/* Between figures the browser paints and hears its reader: the verdict stands there before the first. */
const breathe = () => new Promise((go) => setTimeout(go));
let turn = 0;
async function show() {
  const mine = ++turn;
  document.body.dataset.ready = "false";
  for (const [id] of PAGE.sections) $("tables-" + id).replaceChildren();
  verdict(); tiles(); serviceTable(); moneyTables(); qualityTables(); latencyTables(); alertTable();
  for (const figure of FIGURES.filter(shownHere)) {
    await breathe();
    if (mine !== turn) return; // another tenant was chosen meanwhile, and is drawn instead
    await draw(figure);
  }
  document.body.dataset.ready = "true";
}
function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = name === "dark" ? "Light" : "Dark";
  $("theme").setAttribute("aria-label", `Switch to the ${name === "dark" ? "light" : "dark"} theme`);
}
const stored = { get() { try { return localStorage.getItem("theme"); } catch { return null; } }, set(name) { try { localStorage.setItem("theme", name); } catch { /* a file of its own origin may not */ } } };
const system = matchMedia("(prefers-color-scheme: dark)");
theme(stored.get() || (system.matches ? "dark" : "light"));
system.addEventListener("change", (event) => { if (!stored.get()) theme(event.matches ? "dark" : "light"); });
$("theme").addEventListener("click", () => { const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; stored.set(name); theme(name); });
$("tenant").addEventListener("change", () => { chosen = $("tenant").value; show(); });
build();
show();
})();
