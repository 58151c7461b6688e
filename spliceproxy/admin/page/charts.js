/* The curves. `history` is what /stats.json has said of the last hour, `chosen` what the reader wants
   to see; that stays in this browser. */

const chosen = { minutes: 15, measure: "bytes", span: "recent", theme: "auto" };
try {
  Object.assign(chosen, JSON.parse(localStorage.getItem("spliceproxy") || "{}"));
} catch { /* nothing is kept here */ }

const choose = (name, value) => {
  chosen[name] = value;
  try {
    localStorage.setItem("spliceproxy", JSON.stringify(chosen));
  } catch { /* as above */ }
};

const choice = (where, name, values, then) => {
  const buttons = values.map(([value, text]) => {
    const button = make("button", "", text);
    button.type = "button";
    button.addEventListener("click", () => {
      choose(name, value);
      show();
      then();
    });
    where.append(button);
    return [value, button];
  });
  const show = () => {
    for (const [value, button] of buttons) {
      button.setAttribute("aria-pressed", String(chosen[name] === value));
    }
  };
  if (!values.some(([value]) => value === chosen[name])) chosen[name] = values[0][0];
  show();
};

const CHARTS = [
  { title: "Requests per second", least: 0.1, format: rate, lines: [
    ["all", "requests", "--one"], ["failed", "failed", "--three"], ["denied", "denied", "--two"],
    ["aborted", "aborted", "--four"]] },
  { title: "Bytes per second", least: 1, format: (v) => bytes(v) + (v === null ? "" : "/s"), lines: [
    ["to clients", "bytes_to_clients", "--one"],
    ["from clients", "bytes_from_clients", "--two"]] },
  { title: "Open tunnels and connections of clients", least: 1, format: count, lines: [
    ["tunnels", "tunnels", "--one"], ["connections", "connections", "--four"]] },
  { title: "Time to the first byte, and to connect", axis: duration,
    format: estimate, lines: [
    ["first byte, median", "time_to_first_byte_p50", "--one"],
    ["95 %", "time_to_first_byte_p95", "--four"],
    ["connect, median", "dial_p50", "--two"]] },
];

let history = { columns: [], rows: [] };
let plots = [];

/* Steps of an axis whose numbers are all written whole: no step is less than the least. */
const steps = (least) => {
  const found = [];
  for (let step = least; step < 1e15; step *= 10) {
    for (const part of [1, 2, 5]) found.push(Number((step * part).toPrecision(1)));
  }
  return found;
};

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const series = (chart) => {
  const at = (name) => history.columns.indexOf(name);
  const last = history.rows.length ? history.rows[history.rows.length - 1][0] : 0;
  const from = last - chosen.minutes * 60;
  const rows = history.rows.filter((row) => row[0] >= from);
  return [rows.map((row) => row[0]),
    ...chart.lines.map(([, name]) => rows.map((row) => row[at(name)] ?? null))];
};

const build = () => {
  for (const [plot] of plots) plot.destroy();
  const where = byId("charts");
  where.replaceChildren();
  plots = CHARTS.map((chart) => {
    const card = make("div", "chart");
    const title = make("h2", "", chart.title);
    const area = make("div", "plot");
    area.setAttribute("role", "img");
    card.append(title, area);
    where.append(card);
    const axis = {
      stroke: colour("--soft"), font: "12px system-ui, sans-serif",
      grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false },
    };
    const plot = new uPlot({
      width: Math.max(200, card.clientWidth - 24), height: 200,
      cursor: { sync: { key: "time" }, points: { size: 6 } },
      scales: { y: { range: (u, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, space: 70, size: 28, gap: 6,
          values: (u, times) => times.map((t) => clock(t).slice(0, t % 60 ? 8 : 5)) },
        { ...axis, size: 74, ...(chart.least && { incrs: steps(chart.least) }), values: (u, values) => values.map(chart.axis || chart.format) },
      ],
      series: [
        { label: "time", value: (u, v) => (v === null ? "now" : clock(v)) },
        ...chart.lines.map(([label, , name]) => ({
          label, stroke: colour(name), width: 2, points: { show: false }, spanGaps: false,
          value: (u, v, i) => {
            const shown = v ?? lastOf(u.data[i]);
            return shown === null ? "–" : chart.format(shown);
          },
        })),
      ],
    }, series(chart), area);
    // The label of the whole says what the legend does.
    plot.root.querySelector(".u-legend").setAttribute("aria-hidden", "true");
    return [plot, chart, area, card];
  });
  describe();
};

const lastOf = (values) => (values && values.length ? values[values.length - 1] : null);

/* What a chart shows, for who cannot see it. */
const describe = () => {
  for (const [plot, chart, area] of plots) {
    const parts = chart.lines.map(([label], i) => {
      const values = plot.data[i + 1].filter((value) => value !== null);
      if (!values.length) return label + ": nothing yet";
      return label + ": now " + chart.format(lastOf(values)) +
        ", most " + chart.format(Math.max(...values));
    });
    area.setAttribute("aria-label",
      chart.title + ", the last " + chosen.minutes + " minutes. " + parts.join("; "));
  }
};

const draw = () => {
  for (const [plot, chart] of plots) plot.setData(series(chart));
  describe();
};

const resize = () => {
  for (const [plot, , , card] of plots) {
    plot.setSize({ width: Math.max(200, card.clientWidth - 24), height: 200 });
  }
};
