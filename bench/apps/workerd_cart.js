// The cart on workerd: a Durable Object with SQLite storage for each cart, behind one Worker.
import { DurableObject } from "cloudflare:workers";

export class Cart extends DurableObject {
  constructor(state, env) {
    super(state, env);
    this.sql = state.storage.sql;
    this.sql.exec("CREATE TABLE IF NOT EXISTS line (sku TEXT PRIMARY KEY, qty INTEGER)");
    // Read once: an object has one owner, so memory and disk agree from here on.
    this.lines = {};
    for (const { sku, qty } of this.sql.exec("SELECT sku, qty FROM line")) this.lines[sku] = qty;
  }

  async add(sku, qty) {
    const total = (this.lines[sku] ?? 0) + qty;
    this.sql.exec("INSERT OR REPLACE INTO line VALUES (?, ?)", sku, total);
    this.lines[sku] = total;
    return this.lines; // held back by the output gate until the write is on disk
  }

  async view() {
    return this.lines;
  }
}

export default {
  async fetch(request, env) {
    const [, , key, method] = new URL(request.url).pathname.split("/");
    const cart = env.CART.get(env.CART.idFromName(key));
    if (method === "view") return Response.json(await cart.view());
    const { sku, qty = 1 } = await request.json();
    return Response.json(await cart.add(sku, qty));
  },
};
