// The map. The server says 20 times a second where everyone is; between two frames people are
// drawn on the way from one to the other, a tenth of a second in the past, so they walk smoothly.

import { pause, tell } from "./street.js";

const WIDTH = 1600, HEIGHT = 1000, DELAY_MS = 100;
const canvas = document.getElementById("map");
const pen = canvas.getContext("2d");
const night = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");

let you = null, socket = null, target = null, camera = { x: 0, y: 0, scale: 1 };
const frames = []; // the last few, with the time at which each came
const held = new Set();

// -- talking with the server ---------------------------------------------------------------------

function connect() {
  return new Promise((closed) => {
    socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/plaza/live");
    socket.onopen = () => { tell(""); wish(); };
    socket.onmessage = (event) => hear(JSON.parse(event.data));
    socket.onclose = closed;
  });
}

function hear(message) {
  if (message.you) you = message.you;
  if (!message.players) return;
  frames.push({ at: performance.now(), players: message.players });
  if (frames.length > 20) frames.shift();
  if (target && you in message.players) {
    const { x, y } = message.players[you];
    if (Math.hypot(target[0] - x, target[1] - y) < 3) target = null;
  }
  listPeople(message.players);
}

function listPeople(players) {
  const entries = Object.entries(players).sort(([a], [b]) => (b === you) - (a === you) || (a < b ? -1 : 1));
  const names = entries.map(([id, p]) => `${id}${p.name}`).join();
  const list = document.getElementById("people");
  document.getElementById("state").textContent = entries.length === 1 ? "Just you here" : `${entries.length} people here`;
  if (list.dataset.names === names) return;
  list.dataset.names = names;
  list.replaceChildren(...entries.slice(0, 12).map(([id, player]) => {
    const item = document.createElement("li");
    item.innerHTML = '<svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><circle cx="6" cy="6" r="6"/></svg><span></span>';
    item.querySelector("circle").setAttribute("fill", player.colour);
    item.querySelector("span").textContent = player.name + (id === you ? " (you)" : "");
    return item;
  }));
}

function wish() {
  if (socket?.readyState !== WebSocket.OPEN) return;
  const on = (...keys) => keys.some((key) => held.has(key)) ? 1 : 0;
  const dx = on("ArrowRight", "KeyD") - on("ArrowLeft", "KeyA");
  const dy = on("ArrowDown", "KeyS") - on("ArrowUp", "KeyW");
  if (dx || dy) target = null;
  socket.send(JSON.stringify({ dx, dy, to: target }));
}

const KEYS = /^(Arrow(Up|Down|Left|Right)|Key[WASD])$/;
addEventListener("keydown", (event) => {
  if (!KEYS.test(event.code) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  if (!held.has(event.code)) { held.add(event.code); wish(); }
});
addEventListener("keyup", (event) => { if (held.delete(event.code)) wish(); });
addEventListener("blur", () => { held.clear(); wish(); });

function walkTo(event) {
  const box = canvas.getBoundingClientRect();
  target = [(event.clientX - box.left) / camera.scale + camera.x, (event.clientY - box.top) / camera.scale + camera.y];
  wish();
}
canvas.addEventListener("pointerdown", walkTo);
canvas.addEventListener("pointermove", (event) => { if (event.buttons) walkTo(event); });

// -- drawing -------------------------------------------------------------------------------------

function peopleNow() {
  const last = frames.at(-1);
  if (!last) return {};
  const at = performance.now() - DELAY_MS;
  const next = frames.find((frame) => frame.at >= at) ?? last;
  const previous = frames[frames.indexOf(next) - 1] ?? next;
  const part = next === previous ? 1 : Math.min(1, Math.max(0, (at - previous.at) / (next.at - previous.at)));
  const people = {};
  for (const [id, to] of Object.entries(next.players)) {
    const from = previous.players[id] ?? to;
    people[id] = { ...to, x: from.x + (to.x - from.x) * part, y: from.y + (to.y - from.y) * part, walks: Math.hypot(to.x - from.x, to.y - from.y) > 0.5 };
  }
  return people;
}

function look(at) {
  const { clientWidth: w, clientHeight: h } = canvas;
  const ratio = Math.min(devicePixelRatio, 2);
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    [canvas.width, canvas.height] = [Math.round(w * ratio), Math.round(h * ratio)];
  }
  const scale = Math.max(w / WIDTH, h / HEIGHT, 0.55); // fill the window and follow whoever looks
  const follow = (centre, size, seen) => Math.min(Math.max(centre - seen / 2, 0), Math.max(size - seen, 0));
  camera = { scale, x: follow(at.x, WIDTH, w / scale), y: follow(at.y, HEIGHT, h / scale) };
  pen.setTransform(scale * ratio, 0, 0, scale * ratio, -camera.x * scale * ratio, -camera.y * scale * ratio);
}

const disc = (x, y, r, fill) => { pen.fillStyle = fill; pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.fill(); };
const box = (x, y, w, h, fill, r = 0) => { pen.fillStyle = fill; pen.beginPath(); pen.roundRect(x, y, w, h, r); pen.fill(); };

const DAY = { grass: "#b9d8a4", lawn: "#a9cd93", stone: "#efe4cf", seam: "#e0d2b6", water: "#7cc4dd", rim: "#b9ab94", leaf: "#6fa35c", leaf2: "#7fb56b", shade: "rgb(60 40 10 / 15%)", lit: "#fff3c4", ink: "#221f33", halo: "rgb(255 253 248 / 88%)" };
const NIGHT = { grass: "#1c2b35", lawn: "#203340", stone: "#37344d", seam: "#2f2c43", water: "#2f6f94", rim: "#565070", leaf: "#274b46", leaf2: "#2f5a52", shade: "rgb(0 0 0 / 30%)", lit: "#ffcf62", ink: "#f3eee2", halo: "rgb(20 19 31 / 75%)" };
const HOUSES = [["#d9482b", "#8e2b18"], ["#f0b429", "#a87008"], ["#2a7f78", "#17514c"], ["#e9dcc6", "#8d7b62"], ["#c2557c", "#7d2f4d"], ["#5b76c9", "#32457f"]];
const TREES = [[170, 330], [150, 640], [330, 880], [620, 930], [980, 930], [1270, 880], [1450, 640], [1430, 330], [480, 330], [1120, 330], [470, 720], [1130, 720]];
const LAMPS = [[560, 400], [1040, 400], [560, 650], [1040, 650]];

function drawGround(c, t) {
  box(0, 0, WIDTH, HEIGHT, c.grass);
  for (let i = 0; i < 60; i++) disc((i * 397) % WIDTH, 210 + (i * 263) % 790, 26 + (i * 7) % 22, c.lawn);
  box(0, 200, WIDTH, 70, c.stone);
  box(720, 180, 160, 820, c.stone);
  box(0, 470, WIDTH, 120, c.stone);
  disc(800, 530, 350, c.stone);
  pen.strokeStyle = c.seam; pen.lineWidth = 3;
  for (const r of [150, 215, 280, 340]) { pen.beginPath(); pen.arc(800, 530, r, 0, 7); pen.stroke(); }
  for (let i = 0; i < 24; i++) { const a = i * Math.PI / 12; pen.beginPath(); pen.moveTo(800 + 150 * Math.cos(a), 530 + 150 * Math.sin(a)); pen.lineTo(800 + 340 * Math.cos(a), 530 + 340 * Math.sin(a)); pen.stroke(); }
  disc(804, 540, 92, c.shade); disc(800, 530, 90, c.rim); disc(800, 530, 76, c.water);
  pen.strokeStyle = "rgb(255 255 255 / 45%)"; pen.lineWidth = 2.5;
  for (let i = 0; i < 3; i++) { pen.beginPath(); pen.globalAlpha = 1 - ((t / 2600 + i / 3) % 1); pen.arc(800, 530, 18 + 54 * ((t / 2600 + i / 3) % 1), 0, 7); pen.stroke(); }
  pen.globalAlpha = 1; disc(800, 530, 17, c.rim); disc(800, 530, 8, "#fff");
}

function drawHouses(c) {
  for (let i = 0; i < 12; i++) {
    const [wall, roof] = HOUSES[(i * 5) % 6], x = i * 134 - 4, top = 66 + (i * 37) % 22;
    box(x + 6, top + 8, 128, 214 - top, c.shade); box(x, top, 128, 208 - top, wall);
    pen.fillStyle = roof; pen.beginPath();
    if (i % 3 === 1) pen.rect(x - 5, top - 14, 138, 18); else { pen.moveTo(x - 8, top + 4); pen.lineTo(x + 64, top - 50); pen.lineTo(x + 136, top + 4); }
    pen.fill();
    for (const wx of [18, 78]) box(x + wx, top + 14, 32, 26, c.lit, 4);
    box(x + 14, 138, 60, 44, c.lit, 4); box(x + 86, 144, 28, 64, roof, 4);
    for (let s = 0; s < 5; s++) box(x + 8 + s * 14, 124, 14, 16, s % 2 ? "#fff6dc" : roof, 0);
  }
}

function drawTree(x, y, c) { disc(x + 6, y + 12, 46, c.shade); disc(x, y, 44, c.leaf); disc(x - 12, y - 12, 27, c.leaf2); disc(x + 16, y - 4, 20, c.leaf2); }

function drawLamp(x, y, c) {
  if (night.matches) {
    const glow = pen.createRadialGradient(x, y - 58, 6, x, y - 30, 150);
    glow.addColorStop(0, "rgb(255 207 98 / 45%)"); glow.addColorStop(1, "rgb(255 207 98 / 0%)");
    disc(x, y - 30, 150, glow);
  }
  box(x - 3, y - 56, 6, 58, "#2b2940", 3); disc(x, y - 60, 11, c.lit);
}

function drawPerson(id, person, c, t) {
  const { x } = person, hop = person.walks && !still.matches ? Math.abs(Math.sin(t / 90)) * 5 : 0, y = person.y - hop;
  pen.fillStyle = c.shade; pen.beginPath(); pen.ellipse(x, person.y + 20, 19, 7, 0, 0, 7); pen.fill();
  pen.fillStyle = person.colour; pen.strokeStyle = "#fffdf8"; pen.lineWidth = id === you ? 4.5 : 2.5;
  pen.beginPath(); pen.roundRect(x - 17, y - 12, 34, 33, [17, 17, 9, 9]); pen.stroke(); pen.fill();
  disc(x, y - 22, 15, "#f6d3b0");
  pen.fillStyle = person.colour; pen.beginPath(); pen.arc(x, y - 25, 15, Math.PI, 0); pen.fill(); box(x - 18, y - 27, 36, 5, person.colour, 3);
  disc(x - 5, y - 18, 2, "#221f33"); disc(x + 5, y - 18, 2, "#221f33");
  const size = Math.max(17, 13 / camera.scale);
  pen.font = `600 ${size}px system-ui, sans-serif`; pen.textAlign = "center";
  const w = pen.measureText(person.name).width + 16;
  box(x - w / 2, y - 48 - size * 1.4, w, size * 1.45, c.halo, size * .7);
  pen.fillStyle = c.ink; pen.fillText(person.name, x, y - 48 - size * .37);
}

function draw(t) {
  const c = night.matches ? NIGHT : DAY, people = peopleNow();
  look(people[you] ?? { x: 800, y: 530 });
  drawGround(c, still.matches ? 0 : t); drawHouses(c);
  if (target) { pen.strokeStyle = c.ink; pen.lineWidth = 2.5; pen.setLineDash([6, 6]); pen.beginPath(); pen.arc(target[0], target[1], 15, 0, 7); pen.stroke(); pen.setLineDash([]); }
  const things = [
    ...TREES.map(([x, y]) => [y + 30, () => drawTree(x, y, c)]),
    ...LAMPS.map(([x, y]) => [y, () => drawLamp(x, y, c)]),
    ...Object.entries(people).map(([id, person]) => [person.y + 18, () => drawPerson(id, person, c, t)]),
  ];
  for (const [, paint] of things.sort(([a], [b]) => a - b)) paint();
  requestAnimationFrame(draw);
}

requestAnimationFrame(draw);
for (;;) {
  const closed = await connect();
  if (closed.code === 4401) { location.href = "/login?next=/plaza"; break; }
  document.getElementById("state").textContent = "Connecting again …";
  tell("The server is down. Everyone stays where they are until it is back …");
  await pause(300);
}
