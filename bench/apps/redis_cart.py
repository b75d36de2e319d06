"""The cart on FastAPI and Redis: a hash for each cart, one pipeline for each call.

Not a MULTI/EXEC: HINCRBY alone loses no addition, and without the transaction Redis is quicker.
"""

import os

import orjson
from fastapi import FastAPI, Response
from pydantic import BaseModel
from redis.asyncio import BlockingConnectionPool, Redis

POOL_SIZE = int(os.environ.get("BENCH_POOL_SIZE", "32"))

pool = BlockingConnectionPool.from_url(
    f"unix://{os.environ['BENCH_REDIS_SOCKET']}", max_connections=POOL_SIZE
)
redis = Redis(connection_pool=pool)
app = FastAPI()


class Addition(BaseModel):
    """What a shopper adds."""

    sku: str
    qty: int = 1


def lines_response(lines: dict[bytes, bytes]) -> Response:
    """Answer with the lines of a cart; orjson is quicker than FastAPI's own encoder."""
    body = orjson.dumps({sku.decode(): int(quantity) for sku, quantity in lines.items()})
    return Response(body, media_type="application/json")


@app.post("/cart/{key}/add")
async def add(key: str, addition: Addition) -> Response:
    """Add to the cart and return its lines."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.hincrby(key, addition.sku, addition.qty)
        pipeline.hgetall(key)
        _, lines = await pipeline.execute()
    return lines_response(lines)


@app.get("/cart/{key}/view")
async def view(key: str) -> Response:
    """Return the lines."""
    return lines_response(await redis.hgetall(key))
