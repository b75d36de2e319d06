"""The cart on FastAPI and PostgreSQL: one row a cart, one statement and one commit for each call.

A jsonb row a cart needs one statement for the addition and the answer; a row for each line would
need a second one to read the cart. Of pools of 4 to 64 connections, 16 was the quickest.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, Response
from pydantic import BaseModel

POOL_SIZE = int(os.environ.get("BENCH_POOL_SIZE", "16"))
CREATE = "CREATE TABLE IF NOT EXISTS cart (key text PRIMARY KEY, lines jsonb NOT NULL)"
ADD = """
INSERT INTO cart AS old (key, lines) VALUES ($1, jsonb_build_object($2::text, $3::int))
ON CONFLICT (key) DO UPDATE SET lines = old.lines
    || jsonb_build_object($2::text, coalesce((old.lines ->> $2)::int, 0) + $3::int)
RETURNING lines
"""
VIEW = "SELECT lines FROM cart WHERE key = $1"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool, as full as it gets, and create the table."""
    async with asyncpg.create_pool(
        host=os.environ["BENCH_POSTGRESQL_SOCKET"], user="postgres", database="postgres",
        min_size=POOL_SIZE, max_size=POOL_SIZE,
    ) as pool:  # fmt: skip
        await pool.execute(CREATE)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


class Addition(BaseModel):
    """What a shopper adds."""

    sku: str
    qty: int = 1


@app.post("/cart/{key}/add")
async def add(key: str, addition: Addition) -> Response:
    """Add to the cart and return its lines; asyncpg hands jsonb over as the text of the answer."""
    lines = await app.state.pool.fetchval(ADD, key, addition.sku, addition.qty)
    return Response(lines, media_type="application/json")


@app.get("/cart/{key}/view")
async def view(key: str) -> Response:
    """Return the lines."""
    lines = await app.state.pool.fetchval(VIEW, key)
    return Response(lines or "{}", media_type="application/json")
