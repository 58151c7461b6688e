/* The status page. It asks /stats.json every two seconds while it is seen, and shows what that
   says. numbers.js, tables.js and charts.js stand before it, in one function (page.py). */

const EVERY = 2000; // milliseconds between two questions
const SLOWEST = 15000; // the same while nobody answers
const PATIENCE = 10000; // milliseconds that an answer may take
const KEPT = 3600; // seconds of history

// ---- tiles ------------------------------------------------------------------------------

const tiles = new Map();

const tile = (name, value, unit, more, bad) => {
  let found = tiles.get(name);
  if (!found) {
    const card = make("div", "tile");
    const number = make("p", "value");
    found = { number: make("span"), unit: make("span", "unit"), more: make("p", "more") };
    number.append(found.number, found.unit);
    card.append(make("p", "name", name), number, found.more);
    byId("tiles").append(card);
    tiles.set(name, found);
  }
  setText(found.number, value);
  setText(found.unit, unit);
  setText(found.more, more);
  found.more.classList.toggle("bad", Boolean(bad));
};

const withUnit = (text) => {
  const at = text.indexOf(" ");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
};

const estimated = (seconds) => {
  const [sign, number, unit] = estimate(seconds).split(" ");
  return number ? [sign + " " + number, unit] : [sign, ""];
};

const showTiles = (stats) => {
  const { rates, live, totals, latency, workers } = stats;
  tile("Requests", ...withUnit(rate(rates.requests) + (/[a-zA-Z]/.test(rate(rates.requests)) ? "/s" : " /s")),
    count(totals.requests) + " so far, " + count(totals.aborted) + " aborted");
  tile("Open tunnels", count(live.tunnels), "", count(totals.tunnels) + " so far");
  tile("To clients", ...withUnit(bytes(rates.bytes_to_clients) + "/s"),
    bytes(totals.bytes_to_clients) + " so far");
  tile("From clients", ...withUnit(bytes(rates.bytes_from_clients) + "/s"),
    bytes(totals.bytes_from_clients) + " so far");
  tile("Failed", ...withUnit(rate(rates.failed) + " /s"), count(totals.failed) + " so far",
    rates.failed > 0);
  tile("Denied", ...withUnit(rate(rates.denied) + " /s"), count(totals.denied) + " so far");
  const first = latency.time_to_first_byte;
  tile("Time to first byte", ...estimated(first.p50), "95 %: " + estimate(first.p95));
  const up = workers.filter((worker) => worker.up).length;
  tile("Workers", up + "/" + workers.length, "up",
    up < workers.length ? "one is missing" : percent(sum(workers, (w) => w.cpu_ratio || 0)) + " of a CPU",
    up < workers.length);
};

const sum = (list, of) => list.reduce((total, each) => total + of(each), 0);

// ---- lists ------------------------------------------------------------------------------

const KINDS = [["destinations", "Destinations"], ["clients", "Clients"], ["users", "Users"]];
const lists = KINDS.map(([kind, title]) => {
  const card = make("div", "list");
  byId("tops").append(card);
  return [kind, table(card, title, [
    [title.slice(0, -1), "name-cell", (row) => row.key, share, ""],
    ["Bytes", "number", (row) => (row.error && chosen.measure === "bytes" ? "≤ " : "") +
      bytes(row.bytes), null, "count"],
    ["Requests", "number", (row) => (row.error && chosen.measure === "requests" ? "≤ " : "") +
      count(row.requests), null, "part"],
  ], kind === "users" ? "Nobody has logged in." : "Nothing yet.", true)];
});

const showTops = (stats) => {
  const top = stats.top[chosen.span];
  let worst = 0;
  for (const [kind, fill] of lists) {
    const list = top[kind][chosen.measure];
    const most = list.rows.length ? list.rows[0][chosen.measure] : 0;
    worst = Math.max(worst, list.floor);
    fill(list.rows.slice(0, 10).map((row) => (
      { ...row, share: most ? row[chosen.measure] / most : 0 })));
  }
  const format = chosen.measure === "bytes" ? bytes : count;
  setText(byId("top-note"), "Bytes both ways, in the last " + span(top.seconds) + ". " + (worst
    ? "A number with ≤ is at most " + format(worst) + " too high; whoever is missing has no more than that."
    : "The numbers are exact."));
};

const limits = table(byId("limits"), "Limits", [
  ["Limit", "name-cell", (row) => row.limit],
  ["For", "long", (row) => row.key || "all together"],
  ["Connections", "number", (row) => count(row.connections)],
  ["Refused", "number", (row) => count(row.refused)],
  ["Today", "number", (row) => row.bytes_today ? bytes(row.bytes_today) : "–"],
  ["This hour", "number", (row) => row.bytes_this_hour ? bytes(row.bytes_this_hour) : "–"],
], "No limit has counted anything.");

const denials = table(byId("denials"), "Last denials", [
  ["Time", "short", (row) => moment(row.time)],
  ["Client", "short", (row) => row.client || "unix"],
  ["User", "name-cell", (row) => row.user || "–"],
  ["Request", "long", (row) => row.method + " " + row.target, titled],
  ["Rule", "name-cell", (row) => row.rule || "–"],
  ["Reason", "long", (row) => row.reason || "–"],
], "Nothing has been denied.");

const failures = table(byId("failures"), "What failed in the last hour", [
  ["Last", "short", (row) => moment(row.last)],
  ["Count", "number", (row) => count(row.hour)],
  ["Kind", "name-cell", (row) => row.kind],
  ["Where", "long", (row) => row.where || "–"],
  ["Address", "name-cell", (row) => row.address || "–"],
  ["Last client", "short", (row) => row.client || "–"],
], "Nothing has failed.");

const errors = table(byId("errors"), "Errors by kind", [
  ["Kind", "name-cell", (row) => row.kind],
  ["Last minute", "number", (row) => count(row.minute)],
  ["All", "number", (row) => count(row.total)],
], "No errors.");

const ended = table(byId("ended"), "How tunnels ended", [
  ["Reason", "name-cell", (row) => row.reason],
  ["Tunnels", "number", (row) => count(row.total)],
], "None has ended yet.");

const workers = table(byId("workers"), "Workers", [
  ["Worker", "short", (row) => String(row.index)],
  ["State", "short", (row) => (!row.up ? "down" : row.draining ? "draining" : "up"), (cell, row, text) => {
    setText(cell, text);
    cell.className = "short " + (row.up ? "good-text" : "bad-text");
  }],
  ["Process", "number", (row) => (row.pid ? String(row.pid) : "–")],
  ["For", "short", (row) => (row.uptime === null ? "–" : span(row.uptime))],
  ["Requests/s", "number", (row) => rate(row.requests_per_second)],
  ["Tunnels", "number", (row) => count(row.tunnels)],
  ["Clients", "number", (row) => count(row.connections)],
  ["CPU", "number", (row) => (row.cpu_ratio === null ? "–" : percent(row.cpu_ratio))],
  ["Memory", "number", (row) => bytes(row.memory_bytes)],
  ["Descriptors", "number", (row) => (row.descriptors === null ? "–" :
    count(row.descriptors) + (row.max_descriptors ? " of " + count(row.max_descriptors) : ""))],
], "There is none.");

const pipes = table(byId("pipes"), "Pipes", [
  ["What", "name-cell", (row) => row[0]],
  ["Number", "number", (row) => row[1]],
], "Not known.");

const reloads = table(byId("reloads"), "Reloads", [
  ["Time", "short", (row) => moment(row.time)],
  ["Generation", "number", (row) => String(row.generation)],
  ["Asked by", "short", (row) => row.who],
  ["Result", "long", (row) => row.reason ? row.result + ": " + row.reason : row.result],
], "The configuration is the one of the start.");

const WORDS = [["lent", "lent: bytes are in them"], ["idle", "at hand"], ["limit", "at most"],
  ["starved", "turns that wanted one in vain"], ["fallbacks", "ways that gave up splice(2)"]];

// ---- asking -----------------------------------------------------------------------------

let stats = null;
let paused = false;
let timer = null;
let wait = EVERY;
let asking = null;
let answered = 0;

/* Workers that do not answer, by their numbers: what they know is missing. */
const silentOnes = (stats) => {
  const silent = stats.silent;
  return silent.length ? (silent.length > 1 ? "workers " : "worker ") + silent.join(", ") : "";
};

const state = (kind, text) => {
  byId("dot").className = "dot " + kind;
  setText(byId("state"), text);
};

const show = () => {
  if (!stats) return;
  showTiles(stats);
  showTops(stats);
  const store = stats.limits_store;
  byId("limits").parentNode.hidden = !stats.limits.length && !store;
  setText(byId("limits-note"), !store ? "" : store.up
    ? "They are shared by " + count(store.machines) + (store.machines === 1 ? " machine." : " machines.")
    : "The store of limits is away, and this machine counts by itself.");
  limits(stats.limits.slice(0, 30));
  denials([...stats.denials].reverse().slice(0, 30));
  failures(stats.failures.slice(0, 30));
  errors(stats.errors);
  ended(stats.tunnels_ended);
  workers(stats.workers);
  pipes(WORDS.filter(([name]) => name in stats.pipes)
    .map(([name, words]) => [words, count(stats.pipes[name])]));
  reloads([...stats.reloads].reverse());
  const proxy = stats.proxy;
  setText(byId("about"), proxy.version + ", up for " + span(proxy.uptime) +
    ", generation " + proxy.generation);
  const silent = silentOnes(stats);
  byId("silent").hidden = !silent;
  setText(byId("silent"), "No answer of " + silent +
    ". What only these know is missing in the lists below: live tunnels, top users, denials, failures.");
  setText(byId("bounds-note"), "≈ is an estimate: times are counted in buckets, up to " +
    stats.latency.bounds.map((s) => (s < 1 ? s * 1e3 + " ms" : s + " s")).join(", ") + ".");
  document.title = rate(stats.rates.requests) + "/s, " + count(stats.live.tunnels) +
    " tunnels – spliceproxy";
};

const remember = (more) => {
  if (more.columns.join() !== history.columns.join()) history = { columns: more.columns, rows: [] };
  const last = history.rows.length ? history.rows[history.rows.length - 1][0] : 0;
  history.rows.push(...more.rows.filter((row) => row[0] > last));
  const from = (lastOf(history.rows) || [0])[0] - KEPT;
  while (history.rows.length && history.rows[0][0] < from) history.rows.shift();
};

const ask = async () => {
  clearTimeout(timer);
  timer = null;
  if (asking || paused || document.hidden) return;
  const last = history.rows.length ? history.rows[history.rows.length - 1][0] : 0;
  asking = new AbortController();
  const late = setTimeout(() => asking.abort(), PATIENCE);
  try {
    const answer = await fetch(location.origin + "/stats.json?since=" + last,
      { signal: asking.signal, cache: "no-store", credentials: "same-origin" });
    if (!answer.ok) throw new Error("status " + answer.status);
    stats = await answer.json();
    answered = Date.now();
    remember(stats.history);
    show();
    draw();
    document.querySelector("main").classList.remove("stale");
    const down = stats.workers.filter((worker) => !worker.up).length;
    if (stats.proxy.draining) state("warn", "draining");
    else if (silentOnes(stats)) state("warn", "no answer of " + silentOnes(stats));
    else if (down) state("warn", down + " of " + stats.workers.length + " workers down");
    else state("good", "running");
    wait = EVERY;
  } catch (error) {
    document.querySelector("main").classList.add("stale");
    state("bad", "no answer" + (answered ? " since " + clock(answered / 1000) : "") + ", trying again");
    wait = Math.min(SLOWEST, wait * 1.5);
  } finally {
    clearTimeout(late);
    asking = null;
  }
  if (!paused && !document.hidden) timer = setTimeout(ask, wait);
};

const pause = (on) => {
  paused = on;
  byId("pause").setAttribute("aria-pressed", String(on));
  setText(byId("pause"), on ? "Go on" : "Pause");
  if (on) state("warn", "paused");
  else {
    ask();
    askFlows();
  }
};

byId("pause").addEventListener("click", () => pause(!paused));
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  ask();
  askFlows();
});
window.addEventListener("online", ask);

// ---- theme ------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const showTheme = () => {
  if (!THEMES.includes(chosen.theme)) chosen.theme = "auto";
  if (chosen.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen.theme;
  setText(byId("theme"), "Theme: " + chosen.theme);
};
byId("theme").addEventListener("click", () => {
  choose("theme", THEMES[(THEMES.indexOf(chosen.theme) + 1) % THEMES.length]);
  showTheme();
  build();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);

choice(byId("span-of-time"), "minutes", [[5, "5 min"], [15, "15 min"], [60, "1 h"]], draw);
choice(byId("measure"), "measure", [["bytes", "Bytes"], ["requests", "Requests"]], show);
choice(byId("span"), "span", [["recent", "Last minutes"], ["all", "Since the start"]], show);
showTheme();
build();
startFlows();
new ResizeObserver(resize).observe(byId("charts"));
ask();
