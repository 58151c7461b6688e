/* The live tunnels and running requests: the first in an order, those with some words, and how one
   is ended. It asks /tunnels while its table is in sight, and less often where that takes long. */

const ROWS = 100; // that are shown
const SHARE = 10; // it waits for so many times as long as an answer took
const GONE = 404;

const flow = {
  list: [], found: 0, why: [], order: [], // ids of the rows in their places
  by: "out_rate", down: true, words: "",
  seen: false, asking: false, timer: null, fault: "", asked: null,
};

const received = (row) => row.in_copied + row.in_spliced;
const sent = (row) => row.out_copied + row.out_spliced;
const rateOf = (value) => (value ? bytes(value) + "/s" : "–");
const trip = (us) => (us === null ? "–" : duration(us / 1e6));
const who = (row) => row.client + (row.user ? ", " + row.user : "");
const waits = (row) => (row.kind === "request" ? row.state : "");

// [what it is ordered by, heading, classes, text]
const FLOW_COLUMNS = [
  ["target", "Target", "target", (row) => row.method + " " + row.target],
  ["client", "Client", "short roomy", (row) => row.client],
  ["user", "User", "name-cell roomy", (row) => row.user || "–"],
  ["age", "Age", "number roomy", (row) => (row.age === null ? "–" : span(row.age))],
  ["in_rate", "From client", "number roomy", (row) => rateOf(row.in_rate)],
  ["out_rate", "To client", "number", (row) => rateOf(row.out_rate)],
  ["in", "From, so far", "number roomy", (row) => bytes(received(row))],
  ["out", "To, so far", "number roomy", (row) => bytes(sent(row))],
  ["client_rtt_us", "Round trip", "number roomy", (row) => trip(row.client_rtt_us)],
];
const TEXTS = ["target", "client", "user"]; // begin with the first word, numbers with the largest

// ---- the table --------------------------------------------------------------------------

const flowTable = make("table");
const flowBody = make("tbody");
const flowHeads = new Map();

const buildFlows = () => {
  flowTable.append(make("caption", "hidden", "Live tunnels and running requests"));
  const line = make("tr");
  for (const [by, heading, classes] of FLOW_COLUMNS) {
    const head = make("th", classes);
    head.scope = "col";
    const button = make("button", "order", heading);
    button.type = "button";
    button.addEventListener("click", () => {
      flow.down = flow.by === by ? !flow.down : !TEXTS.includes(by);
      flow.by = by;
      flow.order = [];
      showOrder();
      askFlows();
    });
    head.append(button);
    line.append(head);
    flowHeads.set(by, head);
  }
  const last = make("th", "short");
  last.scope = "col";
  last.append(make("span", "hidden", "End it"));
  line.append(last);
  const head = make("thead");
  head.append(line);
  flowTable.append(head, flowBody);
  byId("flows").append(flowTable);
  showOrder();
};

const showOrder = () => {
  for (const [by, head] of flowHeads) {
    if (by === flow.by) head.setAttribute("aria-sort", flow.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
};

/* Rows stay in their places while somebody is about to use one of them. */
const placed = (list) => {
  const busy = flowBody.matches(":hover") || flowBody.contains(document.activeElement);
  if (!busy || !flow.order.length) return list;
  const rows = new Map(list.map((row) => [row.id, row]));
  const kept = flow.order.filter((id) => rows.has(id)).map((id) => rows.get(id));
  return [...kept, ...list.filter((row) => !flow.order.includes(row.id))];
};

const flowLine = () => {
  const line = make("tr");
  FLOW_COLUMNS.forEach(([, , classes], i) => {
    const cell = make(i ? "td" : "th", classes);
    if (!i) {
      cell.scope = "row";
      cell.append(make("span"), make("span", "phase"), make("span", "tight"));
    }
    line.append(cell);
  });
  const end = make("button", "end", "End…");
  end.type = "button";
  end.addEventListener("click", () => sure(line.flow));
  const cell = make("td", "short");
  cell.append(end);
  line.append(cell);
  return line;
};

const showFlows = () => {
  const rows = placed(flow.list);
  flow.order = rows.map((row) => row.id);
  flowTable.hidden = !rows.length;
  while (flowBody.rows.length > rows.length) flowBody.lastChild.remove();
  rows.forEach((row, at) => {
    const line = flowBody.rows[at] || flowBody.appendChild(flowLine());
    line.flow = row;
    FLOW_COLUMNS.forEach(([, , , text], i) => {
      if (i) setText(line.cells[i], text(row));
      else {
        const [target, phase, client] = line.cells[0].children;
        setText(target, text(row));
        setText(phase, waits(row));
        setText(client, who(row)); // where there is no room for columns of their own
        line.cells[0].title = text(row);
      }
    });
    line.querySelector(".end").setAttribute("aria-label", "End " + row.kind + " " + row.id + ", " + row.target);
  });
  const all = flow.found === 1 ? "1 tunnel or request" : count(flow.found) + " tunnels and requests";
  const some = flow.found > rows.length ? "The first " + rows.length + " of " + all : all;
  setText(byId("flows-note"), flow.fault || some + (flow.words ? " with these words." : ".") +
    (flow.why.length ? " Not all have answered: " + flow.why.join("; ") + "." : ""));
  byId("flows-note").classList.toggle("bad-text", Boolean(flow.fault || flow.why.length));
};

// ---- asking -----------------------------------------------------------------------------

const askFlows = async () => {
  clearTimeout(flow.timer);
  if (flow.asking || paused || document.hidden || !flow.seen) return;
  flow.asking = true;
  const begun = performance.now();
  const asked = flow.by + flow.down + flow.words;
  const query = new URLSearchParams({ most: ROWS, order: (flow.down ? "-" : "") + flow.by });
  if (flow.words.trim()) query.set("words", flow.words);
  try {
    const answer = await fetch(location.origin + "/tunnels?" + query,
      { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const said = await answer.json();
    [flow.list, flow.found, flow.why, flow.fault] = [said.tunnels, said.found, said.why, ""];
  } catch (error) {
    flow.fault = "No answer: " + error.message;
  }
  flow.asking = false;
  showFlows();
  const again = asked === flow.by + flow.down + flow.words;
  flow.timer = setTimeout(askFlows, again ? Math.max(EVERY, SHARE * (performance.now() - begun)) : 0);
};

// ---- ending one -------------------------------------------------------------------------

const DETAILS = [
  ["Client", (row) => row.client + (row.via ? ", via " + row.via : "") + (row.user ? ", user " + row.user : "")],
  ["Origin", (row) => row.peer || "not connected yet"],
  ["Rule", (row) => row.rule || "–"],
  ["Tags", (row) => Object.entries(row.tags).map(([name, value]) => name + "=" + value).join(", ") || "–"],
  ["Age", (row) => (row.age === null ? "–" : span(row.age)) +
    (row.idle === null ? "" : ", no byte for " + span(row.idle))],
  ["From client", (row) => bytes(received(row)) + (row.in_rate ? ", " + rateOf(row.in_rate) : "")],
  ["To client", (row) => bytes(sent(row)) + (row.out_rate ? ", " + rateOf(row.out_rate) : "")],
  ["Round trips", (row) => trip(row.client_rtt_us) + " to the client, " + trip(row.origin_rtt_us) + " to the origin"],
  ["Number", (row) => row.id + ", of worker " + row.worker],
];

const sure = (row) => {
  flow.asked = row;
  setText(byId("sure-title"), "End this " + row.kind + "?");
  setText(byId("sure-target"), row.method + " " + row.target);
  byId("sure-details").replaceChildren(...DETAILS.flatMap(([name, text]) =>
    [make("dt", "", name), make("dd", "", text(row))]));
  byId("sure").showModal();
};

const end = async () => {
  const row = flow.asked;
  byId("sure").close();
  let said = row.method + " " + row.target + " was ended.";
  try {
    const answer = await fetch(location.origin + "/tunnels/" + encodeURIComponent(row.id),
      { method: "DELETE", credentials: "same-origin", signal: AbortSignal.timeout(PATIENCE) });
    if (answer.status === GONE) said = row.method + " " + row.target + " was over already.";
    else if (!answer.ok) throw new Error((await answer.text()).trim());
  } catch (error) {
    said = row.method + " " + row.target + " could not be ended: " + error.message;
  }
  setText(byId("flows-said"), said);
  byId("flows").focus(); // the button that led here may be gone
  askFlows();
};

const startFlows = () => {
  buildFlows();
  byId("sure-yes").addEventListener("click", end);
  byId("sure-no").addEventListener("click", () => byId("sure").close());
  let typed = null;
  byId("flows-words").addEventListener("input", (event) => {
    clearTimeout(typed);
    typed = setTimeout(() => {
      flow.words = event.target.value;
      flow.order = [];
      askFlows();
    }, 200);
  });
  new IntersectionObserver((entries) => {
    flow.seen = entries[entries.length - 1].isIntersecting;
    askFlows();
  }).observe(byId("flows-section"));
};
