// Looks once a second. When the server is gone it keeps looking, and says what came back.

import { pause, tell } from "./street.js";

const live = document.getElementById("live");
let before = null; // what was there when the server was last seen alive
let goneAt = 0;
let killing = false;

const seen = () => ({ ...live.querySelector(".process").dataset });

function ago(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds / 60) % 60)} min`;
}

function tellTime() {
  const now = Date.now() / 1000;
  for (const part of live.querySelectorAll("[data-since]")) part.textContent = ago(now - part.dataset.since);
  for (const part of live.querySelectorAll("[data-ago]")) part.textContent = `${ago(now - part.dataset.ago)} ago`;
}

function show(html) {
  const open = new Map([...live.querySelectorAll("details")].map((row) => [row.dataset.id, row.open]));
  const focused = document.activeElement?.closest("#kill") !== null;
  live.innerHTML = html;
  for (const row of live.querySelectorAll("details")) row.open = open.get(row.dataset.id) ?? row.open;
  if (focused) live.querySelector("#kill button")?.focus({ preventScroll: true });
}

function gone() {
  if (goneAt) return;
  goneAt = performance.now();
  live.querySelector(".process").classList.add("dead");
  tell(`Process ${before.pid} is dead. Nothing was flushed or closed. Waiting for the next one …`);
}

async function look() {
  try {
    const answer = await fetch("/memory?part");
    if (!answer.ok) throw new Error(answer.status);
    const html = await answer.text();
    if (killing) return;
    if (!live.contains(document.activeElement?.closest("pre"))) show(html);
    const now = seen();
    if (before.boot !== now.boot) {
      const took = goneAt ? ` after ${((performance.now() - goneAt) / 1000).toFixed(1)} s` : "";
      tell(`Back${took}: process ${before.pid} is now process ${now.pid}. ${now.stored} actors are stored; before, it was ${before.stored}.`, true);
      setTimeout(tell, 12000, "");
    }
    [before, goneAt] = [now, 0];
  } catch {
    gone();
  }
  tellTime();
}

live.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new URLSearchParams(new FormData(event.target));
  killing = true;
  gone();
  try {
    // answered by the next process: the supervisor kept the socket, and the browser asks again
    await fetch(event.target.action, { method: "POST", body });
  } catch {
    // or not at all
  }
  killing = false;
});

before = seen();
tellTime();
for (;;) {
  await pause(goneAt ? 150 : 1000);
  if (!document.hidden && !killing) await look();
}
