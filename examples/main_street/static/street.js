// Forms marked `data-soft` are sent without leaving the page, and sent again under the same
// request id for as long as the server is down: the actor sees to it that they count once.

const trouble = document.getElementById("trouble");

export function tell(text, good = false) {
  trouble.hidden = !text;
  trouble.textContent = text;
  trouble.classList.toggle("good", good);
}

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

export function fillTimes(root = document) {
  for (const time of root.querySelectorAll("time[data-until]"))
    time.textContent = new Date(time.dataset.until * 1000).toLocaleTimeString([], { timeStyle: "short" });
  for (const time of root.querySelectorAll("time[data-at]"))
    time.textContent = new Date(time.dataset.at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

// Takes over what a page says; the form that was in use stays in use.
export function show(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const form = document.activeElement?.closest("[data-soft]");
  const place = [...document.querySelectorAll("[data-soft]")].indexOf(form);
  for (const part of ["main", ".me", "footer"]) {
    const [now, next] = [document.querySelector(part), page.querySelector(part)];
    if (now && next) now.replaceWith(document.adoptNode(next));
  }
  fillTimes();
  document.querySelectorAll("[data-soft]")[place]?.querySelector("button").focus({ preventScroll: true });
}

async function sendUntilAnswered(form) {
  const options = { method: "POST", body: new URLSearchParams(new FormData(form)) };
  for (let tries = 0; tries < 60; tries++) {
    try {
      const answer = await fetch(form.action, options);
      if (answer.status < 500) return answer;
    } catch {
      // the server is gone; it will be back
    }
    tell("The server is down. Your click is kept and will be sent when it is back …");
    await pause(400);
  }
  return null;
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-soft]")) return;
  event.preventDefault();
  const button = form.querySelector("button");
  if (button.ariaBusy) return;
  button.ariaBusy = "true";
  const answer = await sendUntilAnswered(form);
  if (!answer) return location.reload();
  tell("");
  show(await answer.text());
  document.getElementById("count")?.classList.add("bump");
});

fillTimes();
