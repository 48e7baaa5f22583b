/* ---- charts ---------------------------------------------------------------------------------- */
const drawn = new Map();
function config(width) {
  const small = width < 480;
  const font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
  const words = { labelColor: "var(--muted)", titleColor: "var(--muted)", labelFont: font, titleFont: font, titleFontWeight: 500 };
  return {
    background: null, font, view: { stroke: null }, aria: false,
    axis: { ...words, domainColor: "var(--line)", tickColor: "var(--line)", gridColor: "var(--grid)", labelFontSize: 11.5, titleFontSize: 11.5, titlePadding: 8 },
    axisX: { grid: false }, axisY: { labelLimit: small ? 130 : 250, titleLimit: 260 },
    legend: { ...words, titleColor: "var(--muted)", orient: "top", direction: "horizontal", columns: Math.max(1, Math.floor(width / (small ? 150 : 130))), labelFontSize: 12, symbolStrokeWidth: 2, labelLimit: small ? 130 : 190, offset: 6, titleFontSize: 11.5, rowPadding: 3, columnPadding: 12 },
    text: { font }, line: { strokeCap: "round" }, axisQuantitative: { gridDash: [] },
  };
}
/* At least a week of axis, with half a day of air: one day alone would be a line at the edge. */
function span() {
  const days = Math.max(PAGE.last - PAGE.first + 1, 7);
  const first = PAGE.last - days + 1;
  return { first: (first - 0.6) * MS, last: (PAGE.last + 0.6) * MS, days };
}
function written(figure, rows) {
  const timed = figure.columns.filter(([, , kind]) => kind === "day" || kind === "moment");
  return timed.length ? rows.map((row) => ({ ...row, ...Object.fromEntries(timed.map(([key, , kind]) => [key + "_text", WRITE[kind](row[key])])) })) : rows;
}
/* Tenants whose lines are the same from the first day to the last are one line with all their names. */
const MERGED = new Set(["budget_left", "burn"]);
function merged(figure, rows) {
  if (!MERGED.has(figure.name)) return { rows, said: "" };
  const same = grouped(grouped(rows, "s").map((own) => ({ own, line: JSON.stringify(own.map((row) => [row.t, row.v])) })), "line");
  const several = same.filter((group) => group.length > 1).map((group) => group.map(({ own }) => own[0].s));
  const joined = (names) => (names.join(", ").length <= 24 ? names.join(", ") : `${names[0]} and ${names.length - 1} more`);
  const all = same.flatMap((group) => group[0].own.map((row) => (group.length > 1 ? { ...row, s: joined(group.map(({ own }) => own[0].s)) } : row)));
  return { rows: all, said: several.map((names) => `One line stands for ${names.join(", ")}: they are the same.`).join(" ") };
}
/* A tenant's line that lies below that of another for most of the way is drawn wider than it, and so
   are its points: as bands inside each other. */
const DODGED = new Set(["budget_left", "burn", "budget", "accuracy"]);
function nested(figure, rows) {
  const few = rows.length / Math.max(1, new Set(rows.map((row) => row.s)).size) <= 45;
  const sized = rows.map((row) => ({ ...row, w: 2, size: few ? 42 : 0 })), together = new Set();
  if (!DODGED.has(figure.name)) return { rows: sized, together };
  const values = rows.map((row) => row.v), grain = (Math.max(...values) - Math.min(...values)) / 150 || 1;
  const lines = grouped(sized, "s").map((own) => ({ own, at: new Map(own.map((row) => [row.t, row.v])) }));
  lines.forEach(({ own }, place) => {
    const above = lines.slice(place + 1).filter(({ at }) => own.filter((row) => Math.abs(at.get(row.t) - row.v) < grain).length > 0.6 * own.length);
    if (above.length) for (const each of [{ own }, ...above]) together.add(each.own[0].s);
    for (const row of own) {
      row.w += 2.2 * Math.min(4, above.length);
      row.size *= 1 + 1.1 * Math.min(4, above.length);
    }
  });
  return { rows: sized, together };
}
const ROW_PIXELS = 22;
function heightOf(figure, rows) {
  if (figure.height) return figure.height;
  if (figure.name !== "allowance") return ROW_PIXELS * Math.max(2, rows.length);
  const of = (key) => new Set(rows.map((row) => row[key])).size;
  return Math.max(240, of("promise") * Math.max(34, 14 * Math.min(4, of("tenant")), 9 * of("tenant")));
}
function signals(figure, rows, lines, forecast) {
  const axis = span(), series = Math.max(1, new Set(rows.map((row) => row.s)).size);
  const tops = rows.map((row) => row.upper).filter(isNumber), more = forecast.length ? 3 : 0;
  const width = $("chart-" + figure.name).clientWidth, top = Math.min(1, Math.max(0.02, 1.05 * Math.max(0, ...tops)));
  return {
    first: axis.first, last: axis.last + more * MS, ticks: Math.min(axis.days + more, Math.max(3, Math.floor(width / 90))),
    points: (rows.length / series) > 45 ? 0 : 42, ...(figure.name === "budget" ? { ceiling: budgetCeiling(rows) } : {}),
    ...(figure.name === "accuracy" ? accuracyRange(rows, lines) : {}),
    area: new Set(rows.map((row) => row.tenant)).size > 3 ? 60 : 120,
    top, marks: [0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1].filter((each) => each <= top),
  };
}
/* What a chart does not show and a reader would wonder about. */
function remark(figure, rows, together) {
  if (figure.name === "levels" || figure.name === "categories") return unpublished();
  if (figure.name === "spend" && rows.length && !rows.some((row) => row.v)) return "Nothing was spent on these days.";
  return together.size ? `Lines that coincide lie inside each other: ${[...together].join(", ")}.` : "";
}
/* The days whose reviews were not published, since the gate failed them. */
function unpublished() {
  const published = new Set(pick("levels").filter((row) => row.reviews).map((row) => `${row.day} ${row.who}`));
  const days = grouped(pick("quality").filter((row) => row.verdict === "failed" && !published.has(`${row.day} ${row.who}`)), "day").sort((a, b) => b[0].day - a[0].day);
  const told = days.slice(0, 3).map((own) => `${day(own[0].day)}${chosen ? "" : ` (${own.slice(0, 4).map((row) => row.who).join(", ")}${own.length > 4 ? " and others" : ""})`}`);
  if (days.length > 3) told.push(`${N0.format(days.length - 3)} more ${days.length === 4 ? "day" : "days"}`);
  return days.length ? `The gate failed ${told.join(", ")}: nothing of it is published.` : "";
}
async function draw(figure) {
  const target = $("chart-" + figure.name), empty = $("empty-" + figure.name), slot = $("table-" + figure.name), words = $("remark-" + figure.name);
  const rows = written(figure, ROWS[figure.name]()), one = merged(figure, rows), { rows: sized, together } = nested(figure, one.rows);
  const shown = sized.slice(0, MOST_BARS[figure.name] ?? sized.length);
  const lines = LINES[figure.name] ? LINES[figure.name](rows) : [];
  const forecast = FORECAST[figure.name] ? written(figure, FORECAST[figure.name](rows)) : [];
  target.hidden = !rows.length;
  empty.hidden = rows.length > 0;
  words.textContent = [remark(figure, rows, together), one.said].filter(Boolean).join(" ");
  words.hidden = !words.textContent;
  const about = chosen ? `of ${chosen}` : "of all tenants";
  const label = `Chart: ${figure.title} ${about}, ${rows.length} values. ${figure.note} The same numbers are in the table below.`;
  target.setAttribute("aria-label", label);
  slot.parentElement.hidden = !rows.length;
  slot.replaceChildren();
  const columns = figure.columns.filter(([, title]) => title);
  const fill = () => slot.replaceChildren(tableOf(columns, [...forecast, ...rows], `${figure.title}, the numbers`));
  slot.parentElement.ontoggle = () => { if (slot.parentElement.open && !slot.firstChild) fill(); };
  if (slot.parentElement.open) fill();
  if (!rows.length) return;
  const now = signals(figure, rows, lines, forecast), held = drawn.get(figure.name), height = heightOf(figure, shown);
  const sets = { rows: shown, lines, forecast };
  if (held) {
    for (const name of held.sets) held.view.data(name, sets[name]);
    for (const name of held.signals) held.view.signal(name, now[name]);
    await held.view.height(height).resize().runAsync();
    return;
  }
  const spec = structuredClone(figure.spec);
  spec.height = height;
  spec.datasets = { ...spec.datasets, ...Object.fromEntries(figure.sets.map((name) => [name, sets[name]])) };
  spec.params = figure.params.map((name) => ({ name, value: now[name] }));
  spec.config = config(target.clientWidth);
  const made = await vegaEmbed(target, spec, { renderer: "svg", actions: false, ast: true, mode: "vega-lite", logLevel: 1, tooltip: { theme: "custom" }, formatLocale: LOCALE });
  /* The figure has its words and its table; Vega's own marks have roles without names. */
  target.querySelector("svg").setAttribute("aria-hidden", "true");
  target.setAttribute("role", "img"); // Vega puts its own role and name in place of these
  target.setAttribute("aria-label", label);
  drawn.set(figure.name, { view: made.view, sets: figure.sets, signals: figure.params });
}
const LOCALE = { decimal: ".", thousands: ",", grouping: [3], currency: ["$", ""], minus: "-", percent: `${BLANK}%` };
