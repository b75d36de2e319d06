// The cart as it is, whichever tab changed it. The server draws it; a change only says when.

import { live } from "/-/live.js";
import { show } from "./street.js";

let stale = false;
let loading = false;

async function refresh() {
  stale = true;
  if (loading) return; // the loop below looks once more
  loading = true;
  try {
    while (stale) {
      stale = false;
      const answer = await fetch(location.href);
      if (answer.ok) show(await answer.text());
    }
  } catch {
    // the server is gone; with the connection made anew comes the next change
  }
  loading = false;
}

live(`/cart/${document.querySelector("meta[name=cart]").content}/view`, refresh);
