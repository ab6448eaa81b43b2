// Draws the curves of a job's metrics and of what it uses, and keeps them and the messages up to date: the stream of
// messages says that there is something new, and the server has it, reduced to as many points as can be seen.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const BOX = { width: 420, height: 160, left: 56, right: 10, top: 8, bottom: 20 };
const POINTS = 400;
const MOST = 60; // charts on a page
const EVERY = 500; // ms between two looks at the same thing
const POLL = 2000; // ms between two looks at what the job uses

const ended = () => document.querySelector('[data-ended="yes"]') !== null;

function short(value) {
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  const size = Math.abs(value);
  return size < 1e-3 || size >= 1e7 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function make(parent, name, attributes = {}, text = "") {
  const made = parent.namespaceURI === SVG || name === "svg" ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

class Chart {
  constructor(parent, title) {
    this.title = title;
    this.figure = make(parent, "figure", { class: "chart" });
    const caption = make(this.figure, "figcaption", {}, `${title} `);
    this.value = make(caption, "output");
    this.svg = make(this.figure, "svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img" });
    this.points = [];
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.unpoint());
  }

  // `points` are [x, y], y null for a gap.
  draw(points, unit) {
    const known = points.filter(([, y]) => y !== null);
    if (known.length === 0) return;
    const [low, high] = [Math.min(...known.map(([, y]) => y)), Math.max(...known.map(([, y]) => y))];
    const [first, last] = [Math.min(...points.map(([x]) => x)), Math.max(...points.map(([x]) => x))];
    const [width, height] = [BOX.width - BOX.left - BOX.right, BOX.height - BOX.top - BOX.bottom];
    this.x = (x) => BOX.left + (last > first ? ((x - first) / (last - first)) * width : width / 2);
    this.y = (y) => BOX.top + (high > low ? (1 - (y - low) / (high - low)) * height : height / 2);
    this.points = known;
    this.unit = unit;
    this.svg.replaceChildren();
    for (const y of new Set([low, (low + high) / 2, high])) {
      make(this.svg, "line", { class: "grid", x1: BOX.left, x2: BOX.width - BOX.right, y1: this.y(y), y2: this.y(y) });
      make(this.svg, "text", { x: BOX.left - 6, y: this.y(y) + 4, class: "left" }, short(y));
    }
    make(this.svg, "text", { x: BOX.left, y: BOX.height - 5 }, short(first));
    make(this.svg, "text", { x: BOX.width - BOX.right, y: BOX.height - 5, class: "left" }, `${short(last)} ${unit}`);
    let path = "";
    let pen = false;
    for (const [x, y] of points) {
      if (y !== null) path += `${pen ? "L" : "M"}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`;
      pen = y !== null;
    }
    make(this.svg, "path", { class: "curve", d: path });
    this.dot = make(this.svg, "circle", { class: "dot", r: 3, visibility: "hidden" });
    this.svg.setAttribute("aria-label", `${this.title}: from ${short(low)} to ${short(high)}, last ${short(known.at(-1)[1])}`);
    this.unpoint();
  }

  point(event) {
    if (this.points.length === 0) return;
    const box = this.svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * BOX.width;
    const distance = ([x]) => Math.abs(this.x(x) - at);
    const [x, y] = this.points.reduce((best, one) => (distance(one) < distance(best) ? one : best));
    this.value.textContent = `${short(y)} at ${short(x)} ${this.unit}`;
    for (const [key, value] of [["cx", this.x(x)], ["cy", this.y(y)], ["visibility", "visible"]]) this.dot.setAttribute(key, value);
  }

  unpoint() {
    this.value.textContent = this.points.length ? short(this.points.at(-1)[1]) : "";
    this.dot?.setAttribute("visibility", "hidden");
  }
}

class Board {
  constructor(section) {
    this.section = section;
    this.charts = new Map();
  }

  draw(name, points, unit) {
    if (!this.charts.has(name)) {
      if (this.charts.size >= MOST) return false;
      this.charts.set(name, new Chart(this.section.querySelector(".charts"), name));
    }
    this.charts.get(name).draw(points, unit);
    this.section.hidden = false;
    return true;
  }
}

// Calls `look` now, or as soon as the last call is over and EVERY ms have passed.
function paced(look) {
  let busy = false;
  let again = false;
  return async function run() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    try {
      await look();
    } catch {
      // The server is away: the stream begins anew when it is back, and brings a new look.
    }
    setTimeout(() => {
      busy = false;
      if (again) run();
    }, EVERY);
  };
}

async function fetched(url) {
  const answer = await fetch(url);
  if (answer.redirected || answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  return answer;
}

// A point from the server is [step or null, Unix seconds, value or null].
function plane(points) {
  const steps = points.every(([step]) => step !== null);
  return [points.map(([step, at, value]) => [steps ? step : at - points[0][1], value]), steps ? "steps" : "s"];
}

async function lookAtMetrics(section, board) {
  const found = await (await fetched(`${section.dataset.metrics}?points=${POINTS}`)).json();
  const rows = [];
  let missing = 0;
  for (const one of found.items) {
    if (one.count > 1) missing += board.draw(one.name, ...plane(one.points)) ? 0 : 1;
    else rows.push([one.name, one.last === null ? "not a number" : short(one.last)]);
  }
  section.querySelector(".note").textContent = missing ? `${missing} more curves are not shown.` : "";
  const table = section.querySelector(".values");
  table.replaceChildren();
  for (const [name, value] of rows.slice(0, MOST)) {
    const row = make(table, "tr");
    make(row, "th", { scope: "row" }, name);
    make(row, "td", {}, value);
  }
  if (rows.length) section.hidden = false;
}

async function lookAtUsage(section, board) {
  const { history } = await (await fetched(section.dataset.usage)).json();
  const since = history.at.map((at) => at - history.at[0]);
  const mebibytes = (bytes) => bytes / 1048576;
  const draw = (title, column, scale = (value) => value) => board.draw(title, since.map((x, place) => [x, scale(column[place])]), "s");
  if (since.length < 2) return;
  draw("CPU, % of a core", history.cpu_percent);
  draw("memory, MiB", history.memory, mebibytes);
  if (history.gpu_memory.some((bytes) => bytes > 0)) {
    draw("GPU, %", history.gpu_percent);
    draw("GPU memory, MiB", history.gpu_memory, mebibytes);
  }
}

async function lookAtMessages(section) {
  const text = await (await fetched(section.dataset.part)).text();
  if (section.dataset.shown !== text) section.innerHTML = text; // pictures that are there already stay
  section.dataset.shown = text;
}

// Calls `tell` for each message of the job, while the page is seen.
function follow(url, tell, over) {
  let source = null;
  let last = null;

  function open() {
    const from = new URL(url, location.href);
    if (last !== null) from.searchParams.set("after", last);
    source = new EventSource(from);
    source.addEventListener("message", (event) => {
      last = event.lastEventId;
      tell(JSON.parse(event.data));
    });
    source.addEventListener("error", () => {
      if (!ended()) return;
      source.close();
      document.removeEventListener("visibilitychange", turn);
      over();
    });
  }

  function turn() {
    if (!document.hidden) open();
    else source?.close();
  }

  document.addEventListener("visibilitychange", turn);
  if (!document.hidden) open();
}

function show(section) {
  const board = new Board(section);
  const use = document.getElementById("use");
  const usage = new Board(use);
  const said = document.getElementById("messages");
  const metrics = paced(() => lookAtMetrics(section, board));
  const uses = paced(() => lookAtUsage(use, usage));
  const messages = paced(() => lookAtMessages(said));
  metrics();
  uses();
  if (!section.dataset.said) return;
  const timer = setInterval(() => document.hidden || uses(), POLL);
  follow(
    section.dataset.said,
    (message) => {
      const items = message.type === "metrics" ? (message.body.items ?? []) : null;
      if (items) metrics();
      if (!items || items.some((item) => item.type !== "scalar")) messages();
    },
    () => {
      clearInterval(timer);
      for (const look of [metrics, uses, messages]) look();
    },
  );
}

show(document.getElementById("charts"));
