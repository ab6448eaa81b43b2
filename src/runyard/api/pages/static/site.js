// Keeps what a page shows up to date: parts are rendered by the server and fetched anew when an event says that something
// has changed; output is read on from where the page ends. While nobody sees the page nothing is read: a browser has six
// connections to one server for all of its pages together.
"use strict";

const PAUSE = 150; // ms between an event and the look at what has changed: events come in bunches
const KEEP = 2_000_000; // characters of output that stay on the page

function followPart(part) {
  let source = null;
  let timer = null;
  let busy = false;
  let again = false;

  async function refresh() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    try {
      const answer = await fetch(part.dataset.fragment, { headers: { Accept: "text/html" } });
      if (answer.redirected || answer.status === 401) {
        location.reload();
        return;
      }
      if (answer.ok) {
        const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
        part.innerHTML = await answer.text();
        if (focused) document.getElementById(focused)?.focus();
        if (part.querySelector('[data-ended="yes"]')) {
          document.removeEventListener("visibilitychange", turn);
          source?.close();
        }
      }
    } catch {
      // The server is away: the next connection brings a new look.
    } finally {
      busy = false;
      if (again) {
        again = false;
        soon();
      }
    }
  }

  function soon() {
    if (timer === null) {
      timer = setTimeout(() => {
        timer = null;
        refresh();
      }, PAUSE);
    }
  }

  function open() {
    source = new EventSource(part.dataset.live);
    for (const type of part.dataset.types.split(" ")) source.addEventListener(type, soon);
    let opened = false;
    source.addEventListener("open", () => {
      if (opened) soon(); // something may have been missed
      opened = true;
    });
  }

  function turn() {
    if (document.hidden) {
      source?.close();
    } else {
      open();
      soon();
    }
  }

  document.addEventListener("visibilitychange", turn);
  if (!document.hidden) open();
}

function seen() {
  return new Promise((wake) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      wake();
    };
    document.addEventListener("visibilitychange", look);
    look();
  });
}

async function followOutput(pane) {
  const atEnd = () => pane.scrollTop + pane.clientHeight >= pane.scrollHeight - 4;
  const decoder = new TextDecoder();
  let offset = Number(pane.dataset.offset);
  let length = pane.textContent.length;
  pane.scrollTop = pane.scrollHeight;

  function show(text) {
    const stay = !atEnd();
    pane.append(text);
    length += text.length;
    while (pane.childNodes.length > 1 && length > KEEP) {
      length -= pane.firstChild.textContent.length;
      pane.firstChild.remove();
    }
    if (!stay) pane.scrollTop = pane.scrollHeight;
  }

  for (;;) {
    await seen();
    const stop = new AbortController();
    const turn = () => document.hidden && stop.abort();
    document.addEventListener("visibilitychange", turn);
    try {
      const answer = await fetch(`${pane.dataset.follow}&offset=${offset}`, { signal: stop.signal });
      if (answer.status < 500 && !answer.ok) return;
      const reader = answer.body.getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        offset += value.length;
        show(decoder.decode(value, { stream: true }));
      }
    } catch {
      // The connection has broken: go on from where it did.
    } finally {
      document.removeEventListener("visibilitychange", turn);
    }
    if (stop.signal.aborted) continue;
    if (document.querySelector('[data-ended="yes"]')) return;
    await new Promise((wake) => setTimeout(wake, 1000));
  }
}

for (const part of document.querySelectorAll("[data-live]")) if (part.dataset.live) followPart(part);
for (const pane of document.querySelectorAll("[data-follow]")) if (pane.dataset.follow) followOutput(pane);
