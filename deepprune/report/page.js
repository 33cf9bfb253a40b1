"use strict";
// Charts, tables and questions of report.html. Data reach the page as text only (textContent).
const page = JSON.parse(document.getElementById("payload").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const tables = {};

function make(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// ---- charts

function namesOf(spec, found = new Set()) { // names of the data that a specification reads
  if (Array.isArray(spec)) spec.forEach((part) => namesOf(part, found));
  else if (spec && typeof spec === "object") {
    if (spec.data && spec.data.name) found.add(spec.data.name);
    Object.values(spec).forEach((part) => namesOf(part, found));
  }
  return found;
}

function theme() {
  const css = getComputedStyle(document.documentElement);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((n) => css.getPropertyValue(n).trim());
  const axis = { ...page.config.axis, labelColor: soft, titleColor: ink, gridColor: line, gridOpacity: .6, domainColor: soft, tickColor: soft };
  return { ...page.config, background: "transparent", axis, legend: { ...page.config.legend, labelColor: ink, titleColor: ink }, title: { ...page.config.title, color: ink } };
}

async function draw(box) {
  const name = box.dataset.chart;
  const chooser = document.querySelector(`[data-variant="${name}"]`);
  const spec = page.charts[name][chooser ? Number(chooser.value) : 0];
  const datasets = { ...spec.datasets };
  for (const each of namesOf(spec)) if (each in page.data) datasets[each] = page.data[each];
  const isLarge = Object.values(datasets).some((rows) => rows.length > 1000);
  const options = { actions: false, renderer: isLarge ? "canvas" : "svg", config: theme(), tooltip: { theme: dark.matches ? "dark" : "light" } };
  if (box.drawn) box.drawn.finalize();
  box.drawn = await vegaEmbed(box, { ...spec, datasets }, options);
  box.dataset.state = "drawn";
  const table = Object.values(tables).find((t) => t.brush === name);
  if (table) {
    if (table.ranges) table.choose(null);
    box.drawn.view.addSignalListener("brush", (_, ranges) => table.choose(ranges));
  }
}

const watch = new IntersectionObserver((entries) => { // what is near the part that is seen
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watch.unobserve(target);
    if (target.dataset.chart) draw(target);
    else buildBrowser(target);
  }
}, { rootMargin: "600px" });

// ---- tables

const formats = {}; // a format for each number of digits: making one takes longer than using it

function shown(value, digits) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return String(value);
  formats[digits] ||= new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return formats[digits].format(value);
}

function cell(row, column) {
  const value = row[column.key];
  if (column.text) return make("td", { className: "text", textContent: shown(value) });
  const node = make("td", { textContent: shown(value, column.digits) });
  const [low, high] = [row[column.key + "_low"], row[column.key + "_high"]];
  if (typeof low === "number" && typeof high === "number" && value !== null)
    node.append(" ", make("small", { textContent: `[${shown(low, column.digits)}, ${shown(high, column.digits)}]` }));
  return node;
}

function quoted(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", { value: text });
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return Promise.resolve();
}

function buildTable(box) {
  const given = page.tables[box.dataset.table];
  const rows = page.data[given.data];
  const state = { sort: null, isDown: false, ranges: null, limit: 50, brush: given.brush };
  const search = make("input", { type: "search", placeholder: "search", ariaLabel: "Search the table" });
  const filters = given.filters.map((column) => {
    const values = [...new Set(rows.map((row) => shown(row[column.key])))].sort();
    const options = [make("option", { value: "\0", textContent: `${column.title}: all` })];
    for (const value of values) options.push(make("option", { value, textContent: value || "none" }));
    const select = make("select", { ariaLabel: `Filter by ${column.title}` }, ...options);
    return values.length > 1 ? [column.key, select] : null;
  }).filter(Boolean);
  const clear = make("button", { type: "button", textContent: "clear selection", hidden: true });
  const csv = make("button", { type: "button", textContent: "copy as CSV" });
  const more = make("button", { type: "button", hidden: true });
  const count = make("span", { className: "count", role: "status" });
  const body = make("tbody");
  const heads = given.columns.map((column) => {
    const button = make("button", { type: "button", textContent: column.title });
    const head = make("th", { scope: "col", className: column.text ? "text" : "" }, button);
    button.onclick = () => {
      state.isDown = state.sort === column.key ? !state.isDown : !column.text;
      state.sort = column.key;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", state.isDown ? "descending" : "ascending");
      fill();
    };
    return head;
  });

  function chosen() {
    const wanted = search.value.toLowerCase();
    const found = rows.filter((row) =>
      filters.every(([key, select]) => select.value === "\0" || shown(row[key]) === select.value)
      && (!wanted || given.columns.some((column) => shown(row[column.key], column.digits).toLowerCase().includes(wanted)))
      && Object.entries(state.ranges || {}).every(([key, [low, high]]) => row[key] >= low && row[key] <= high));
    if (state.sort) {
      const sign = state.isDown ? -1 : 1;
      const isMissing = (value) => value === null || value === undefined || value === "";
      found.sort(({ [state.sort]: a }, { [state.sort]: b }) => {
        if (isMissing(a) || isMissing(b)) return isMissing(a) - isMissing(b);
        return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
      });
    }
    return found;
  }

  function fill() {
    const found = chosen();
    const some = found.slice(0, state.limit);
    body.replaceChildren(...some.map((row) => make("tr", {}, ...given.columns.map((column) => cell(row, column)))));
    count.textContent = `${found.length} of ${rows.length} rows`;
    more.hidden = found.length <= state.limit;
    more.textContent = `show all ${found.length}`;
    clear.hidden = !state.ranges;
  }

  state.choose = (ranges) => {
    state.ranges = ranges && Object.keys(ranges).length ? ranges : null;
    fill();
  };
  search.oninput = fill;
  filters.forEach(([, select]) => { select.onchange = fill; });
  more.onclick = () => { state.limit = Infinity; fill(); };
  clear.onclick = () => {
    const chart = document.querySelector(`[data-chart="${given.brush}"]`);
    if (chart) draw(chart);
  };
  csv.onclick = async () => {
    const keys = given.columns.flatMap(({ key, text }) => text || !rows.some((row) => `${key}_low` in row) ? [key] : [key, `${key}_low`, `${key}_high`]);
    const lines = [keys, ...chosen().map((row) => keys.map((key) => row[key]))];
    await copy(lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n");
    csv.textContent = "copied";
    setTimeout(() => { csv.textContent = "copy as CSV"; }, 1500);
  };
  box.append(
    make("div", { className: "tools" }, search, ...filters.map(([, select]) => select), csv, clear, count),
    make("div", { className: "scroll", tabIndex: 0, ariaLabel: "Table", role: "region" }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)),
    more,
  );
  tables[box.dataset.table] = state;
  fill();
}

// ---- questions

function stopping({ reason, by, score }) {
  const [whom, how] = [by === null ? "" : `, for #${by}`, score === null ? "" : `, score ${score.toFixed(3)}`];
  return `stopped: ${reason}${whom}${how}`;
}

function timeline(question, course) { // a record for each started trace
  const stopped = new Map(course.stopped.map((decision) => [decision.trace, decision]));
  const clusters = new Map(course.stopped.filter((d) => d.by !== null).map((d) => [d.by, d.cluster]));
  return course.tokens.map((tokens, i) => {
    const [trace, decision] = [question.traces[i], stopped.get(i)];
    const cluster = decision ? decision.cluster : clusters.get(i);
    const isRight = question.correct.includes(trace.class);
    const name = cluster === undefined || cluster === null ? "none" : String(cluster);
    const answer = `${trace.answer === null ? "no answer" : trace.answer.slice(0, 40)}${isRight ? " ✓" : ""}`;
    return {
      trace: `#${i}`, zero: 0, tokens, full: trace.tokens, end: decision ? "stopped" : "finished",
      cluster: name, answer, label: name === "none" ? answer : `${answer} (cluster ${name})`,
      by: decision && decision.by !== null ? `#${decision.by}` : "", score: decision ? decision.score : null,
      why: decision ? stopping(decision) : "finished", text: trace.text,
    };
  });
}

function buildBrowser(box) {
  const [ofQuestion, ofPoint] = ["[data-question]", "[data-point]"].map((name) => box.querySelector(name));
  const questions = JSON.parse(document.getElementById("payload-questions").textContent);
  questions.forEach((each, i) => ofQuestion.append(make("option", { value: i, textContent: each.question.slice(0, 80) })));
  questions[0].runs.forEach((course, i) => ofPoint.append(make("option", { value: i, textContent: course.point })));
  const chart = box.querySelector("[data-chart]");
  const choose = () => {
    const question = questions[Number(ofQuestion.value)];
    const course = question.runs[Number(ofPoint.value)];
    const records = page.data.timeline = timeline(question, course);
    const vote = course.answer ?? question.traces.find((trace) => trace.class === course.vote)?.answer ?? "none";
    box.querySelector("[data-about]").textContent = `${question.text}\n\nvote: ${vote} (${course.is_correct ? "right" : "wrong"}), gold: ${question.gold}`;
    box.querySelector("[data-traces]").replaceChildren(...records.map((record) => make("details", {},
      make("summary", { textContent: `${record.trace}: ${record.tokens} of ${record.full} tokens, ${record.why}, answer ${record.answer}` }),
      make("pre", { textContent: record.text, dir: "ltr" }))));
    page.charts.timeline[0].height = 15 * records.length;
    if (chart.drawn) draw(chart);
  };
  ofQuestion.onchange = ofPoint.onchange = choose;
  choose();
  watch.observe(chart);
}

document.querySelectorAll("[data-table]").forEach(buildTable);
document.querySelectorAll("[data-chart]:not([data-browser] *)").forEach((box) => watch.observe(box));
document.addEventListener("DOMContentLoaded", () => { // the questions stand behind this script
  document.querySelectorAll("[data-browser]").forEach((box) => watch.observe(box));
});
document.querySelectorAll("[data-variant]").forEach((chooser) => {
  chooser.onchange = () => draw(document.querySelector(`[data-chart="${chooser.dataset.variant}"]`));
});
dark.addEventListener("change", () => document.querySelectorAll('[data-state="drawn"]').forEach(draw));
document.documentElement.dataset.ready = "yes";
